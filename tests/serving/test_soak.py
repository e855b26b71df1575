"""A small sample of `make soak`'s random requests; the laws are in tests/helpers/served_soak.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("psutil")
pytest.importorskip("llguidance")
pytest.importorskip("schemathesis")

from command_line import posix
from served_soak import soak


@pytest.mark.slow
@posix
@pytest.mark.parametrize("seed", [1, 2])
def test_a_server_under_random_requests(tmp_path: Path, seed: int) -> None:
    figures = soak(tmp_path, 150, seed, health=math.inf, examples=3)  # others run beside
    assert figures.health["used"] < 1
    assert figures.checked > 50
    assert figures.kinds.keys() >= {"stream", "completion", "chat", "score", "vectors", "tokens"}
