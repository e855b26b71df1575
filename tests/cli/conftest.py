"""A file of prompts, and one of texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corpus_texts import TEXTS
from prompt_cases import PROMPTS


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = ({"text": text, "id": n, "deep": {"n": [n]}} for n, text in enumerate(TEXTS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
