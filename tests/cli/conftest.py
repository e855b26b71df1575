"""Files of texts and prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prompt_cases import PROMPTS
from written import TEXTS


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A prompt a line."""
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """JSON lines, with other columns beside the text."""
    path = tmp_path / "texts.jsonl"
    rows = ({"text": text, "id": n, "deep": {"n": [n]}} for n, text in enumerate(TEXTS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
