"""Prompts of files, and the output of `gpt2rt generate --file`."""

from __future__ import annotations

import json
from pathlib import Path

OPTIONS = ("--length", "6", "--seed", "7", "--temperature", "1.3")
PROMPTS = ["the cat", "a", "né 👋", "the cat", "x y z", "zz top", "over the hill"]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told(path: Path) -> list[tuple[object, ...]]:
    return [(r["line"], r["sample_of_line"], r["prompt"], tuple(r["tokens"])) for r in lines(path)]  # type: ignore[arg-type]


def parts_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")
