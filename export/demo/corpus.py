"""Makes rows of tokens from stories: endless windows for training, and a held-out set.

Training stories and held-out stories are drawn from one grammar by two random streams, so that a
seed fixes both and the number of the one does not change the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from grammar import Rules, Story, draw
from vocabulary import end_of_text

Tokens = npt.NDArray[np.int32]


def stream(rules: Rules, purpose: str, seed: int) -> Iterator[Story]:
    """Stories without end; every purpose has a random stream of its own."""
    rng = random.Random(f"{purpose} {seed}")
    while True:
        yield draw(rules, rng)


def pack(stories: Iterator[Story], tokenizer: Tokenizer, length: int) -> Tokens:  # [length]
    """`<|endoftext|>`, a story, `<|endoftext|>`, the next story, and so on until it is full."""
    end = end_of_text(tokenizer)
    row = [end]
    while len(row) < length:
        row += tokenizer.encode(next(stories).text).ids
        row.append(end)
    return np.array(row[:length], np.int32)


def batches(
    stories: Iterator[Story], tokenizer: Tokenizer, batch: int, length: int
) -> Iterator[Tokens]:  # each [batch, length]
    """Endless batches of windows, each from the beginning of a story."""
    while True:
        yield np.stack([pack(stories, tokenizer, length) for _ in range(batch)])


def single(stories: list[Story], tokenizer: Tokenizer) -> tuple[Tokens, npt.NDArray[np.bool_]]:
    """One story a row, from `<|endoftext|>` to `<|endoftext|>`, and which targets count.

    Rows are filled up with `<|endoftext|>`: tokens [n, longest], counts [n, longest - 1].
    """
    end = end_of_text(tokenizer)
    encodings = tokenizer.encode_batch([story.text for story in stories])
    rows = [[end, *encoding.ids, end] for encoding in encodings]
    longest = max(map(len, rows))
    tokens = np.full((len(rows), longest), end, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return tokens, np.arange(1, longest) < lengths[:, None]
