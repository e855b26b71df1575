"""Samples on a terminal, and lines of JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from gpt2rt import Piece
from gpt2rt.cli.output.colours import Painter
from gpt2rt.text.controls import json_line

BANNER = "=" * 40


def print_json(value: object) -> None:
    """Print a line of JSON at once."""
    print(json_line(value), end="", flush=True)


def in_turn(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces sample by sample: those of a later sample wait until the ones before it end."""
    held: defaultdict[int, list[Piece]] = defaultdict(list)
    due = 0
    for piece in pieces:
        held[piece.sample].append(piece)
        while due in held:
            ready, held[due] = held[due], []
            yield from ready
            if not (ready and ready[-1].last):
                break
            del held[due]
            due += 1


def write(
    pieces: Iterable[Piece], *, banner: bool, stream: bool = True, show_probs: bool = False
) -> None:
    """Print samples one after the other, under OpenAI's banners where there are several.

    With `show_probs` (the pieces have `logprob`s then) tokens are coloured by their probability.
    """
    show: Callable[[Piece], None] | None = None
    sample = -1
    for piece in in_turn(pieces) if stream else _whole(in_turn(pieces), show_probs):
        show = show or (_coloured() if show_probs else _plain)  # an error comes before the legend
        if banner and piece.sample != sample:
            print(f"{BANNER} SAMPLE {piece.sample + 1} {BANNER}")
        sample = piece.sample
        show(piece)
        if piece.completion:
            print(flush=True)


def _plain(piece: Piece) -> None:
    print(piece.text, end="", flush=True)


def _coloured() -> Callable[[Piece], None]:
    painter = Painter()
    painter.legend()

    def show(piece: Piece) -> None:
        probability = None if piece.logprob is None else math.exp(piece.logprob)
        painter.piece(piece.text, probability)

    return show


def _whole(pieces: Iterable[Piece], apart: bool) -> Iterator[Piece]:
    """The pieces of a sample once it is done: as they are where `apart`, or else as one."""
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        if piece.completion is not None:
            yield from held if apart else [replace(piece, text=piece.completion.text)]
            held = []
