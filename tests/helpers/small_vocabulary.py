"""A small byte-level vocabulary, as OpenAI's two files."""

from __future__ import annotations

import json
from pathlib import Path

from gpt2rt.text.byte_symbols import byte_symbols
from gpt2rt.text.vocabulary_files import END_OF_TEXT

MERGED = ["t h", "Ġ t", "Ġt h", "th e", "Ġth e", "i n", "in g", "Ã ©", "Ċ Ċ", "1 9", "a a", "aa aa"]


def vocabulary(merges: list[str]) -> dict[str, int]:
    made = [merge.replace(" ", "") for merge in merges]
    symbols = dict.fromkeys([*sorted(byte_symbols().values()), *made, END_OF_TEXT])
    return {symbol: i for i, symbol in enumerate(symbols)}


def write(directory: Path, encoder: object, merges: list[str]) -> Path:
    (directory / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    lines = "".join(f"{line}\n" for line in ["#version: 0.2", *merges])
    (directory / "vocab.bpe").write_text(lines, encoding="utf-8")
    return directory
