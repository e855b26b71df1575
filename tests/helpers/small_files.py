"""Data sets of a few lines, written by the tests in the formats of the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STORY = [f"Sentence number {i} ." for i in range(1, 21)]
WORDS = ["dog", "cat", "sun", "tree", "house"]
PASSAGES = [{"text": f"Passage {i} is about a {WORDS[i % 5]}"} for i in range(23)]


def written(path: Path, lines: Iterable[Any]) -> Path:
    text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return path


def cloze(question: str, answer: str, choices: Iterable[str]) -> list[str]:
    lines = [f"{i} {sentence}" for i, sentence in enumerate(STORY, 1)]
    return [*lines, f"21 {question}\t{answer}\t\t{'|'.join(choices)}", ""]
