"""Makes a synthetic vocabulary of any size, in OpenAI's format, where the real one is missing.

It gives a benchmark a tokenizer of its model's size that encodes any text; its symbols are not
learnt from text, and few are longer than two bytes. `gpt2rt.text.tokenizer` reads the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from gpt2rt.errors import InvalidSetting
from gpt2rt.text.byte_symbols import byte_symbols
from gpt2rt.text.vocabulary_files import END_OF_TEXT

LIKELY = b" etaoinshrdlucmfwygpbvk,.\nTIASHWBMCxjqz'\"-0123456789"  # the most likely bytes first
LEAST = 257


def synthetic_vocabulary(n_vocab: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The symbols with their tokens and the merges of a vocabulary of `n_vocab` tokens.

    A function of the size alone: the bytes in OpenAI's order, merges of the most likely bytes, and
    `<|endoftext|>` last. Raises `InvalidSetting` for fewer tokens than bytes and `<|endoftext|>`.
    """
    if n_vocab < LEAST:
        raise InvalidSetting(
            f"n_vocab {n_vocab}: a byte-level vocabulary needs at least {LEAST} tokens, "
            f"one for each byte and {END_OF_TEXT}"
        )
    merges = list(islice(_merges(), n_vocab - LEAST))
    symbols = [*sorted(byte_symbols().values()), *map("".join, merges), END_OF_TEXT]
    return {symbol: token for token, symbol in enumerate(symbols)}, merges


def write_vocabulary(
    directory: Path, encoder: dict[str, int], merges: Sequence[tuple[str, str]]
) -> None:
    """Write `encoder.json` and `vocab.bpe` as OpenAI published them, for `Tokenizer.read`."""
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (directory / "encoder.json").write_bytes(json.dumps(encoder).encode())
    (directory / "vocab.bpe").write_bytes("\n".join(lines).encode())


def _merges() -> Iterator[tuple[str, str]]:
    """All pairs of bytes, then all pairs of these pairs: more than any vocabulary needs."""
    symbols = byte_symbols()
    likely = [symbols[byte] for byte in dict.fromkeys([*LIKELY, *range(256)])]
    pairs = list(_pairs(likely))
    yield from pairs
    yield from _pairs(["".join(pair) for pair in pairs])


def _pairs(symbols: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every ordered pair of symbols, those of the first symbols first."""
    for i, symbol in enumerate(symbols):
        for earlier in symbols[:i]:
            yield earlier, symbol
            yield symbol, earlier
        yield symbol, symbol
