"""One text of an answer, and its events in a stream."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any, Protocol

from gpt2rt.generation.completion import Piece
from gpt2rt.serving.ascii_json import ascii_json
from gpt2rt.serving.events import event


class Choice(Protocol):
    """One text, as a client is told of it."""

    before: Seq[Piece]  # told before the first new token: an echo of the prompt

    def told(self, pieces: Seq[Piece]) -> dict[str, Any]:
        """All the pieces in the answer's form."""

    def told_part(self, pieces: Seq[Piece]) -> dict[str, Any]:
        """The next pieces in the form of an event."""


class ChoiceEvents:
    """The events of a choice, with `around` about each.

    Those with nothing but text differ in it alone, so the rest of them is written once.
    """

    def __init__(self, choice: Choice, around: Mapping[str, Any]) -> None:
        self._choice = choice
        head, inside, self._after = ascii_json(around).partition(b'"choices":[')
        self._before = head + inside
        self._frame: tuple[bytes, bytes] | None = None

    def echo(self) -> bytes:
        """The event with what is told before the first new token, if there is any."""
        return self._event(self._choice.before) if self._choice.before else b""

    def told(self, piece: Piece) -> bytes:
        """The event of a piece."""
        return self._event([piece])

    def told_text(self, piece: Piece) -> bytes:
        """The same for a piece of whose token nothing is told."""
        if piece.completion is not None or self._frame is None:
            told = self._event([piece])
            if piece.completion is None:  # from the second event on all are alike
                self._frame = self._framed(piece.sample)
            return told
        before, after = self._frame
        return before + ascii_json(piece.text) + after

    def _framed(self, sample: int) -> tuple[bytes, bytes]:
        """What is before and after the text in an event."""
        mark = "\0"
        before, _, after = self._event([Piece(sample, mark)]).partition(ascii_json(mark))
        return before, after

    def _event(self, pieces: Seq[Piece]) -> bytes:
        told = ascii_json(self._choice.told_part(pieces))
        return event(self._before + told + self._after)
