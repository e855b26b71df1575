"""Requests made up from the OpenAPI description, right and wrong ones, at every endpoint."""

from __future__ import annotations

import pytest


@pytest.fixture
def schema():
    pass
