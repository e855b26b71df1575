"""Prompts of files, and the output of `gpt2rt generate --file`."""

from __future__ import annotations

from pathlib import Path

from written import lines

OPTIONS = ("--length", "6", "--seed", "7", "--temperature", "1.3")
PROMPTS = ["the cat", "a", "né 👋", "the cat", "x y z", "zz top", "over the hill"]


def told(path: Path) -> list[tuple[object, ...]]:
    return [(r["line"], r["sample_of_line"], r["prompt"], tuple(r["tokens"])) for r in lines(path)]


def parts_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")
