"""A file of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompt_cases import PROMPTS


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path
