"""When a text ends, and the word for why."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Literal

from gpt2rt.errors import InvalidSetting
from gpt2rt.params import whole

FinishReason = Literal["length", "end_of_text", "stop_token", "stop_string", "context", "complete"]


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a text ends. Raises `InvalidSetting` for values that mean nothing.

    length: new tokens at most; None: what the context allows (without end, where it slides).
    strings: the text ends before the first of these, wherever token borders lie.
    tokens: ids that end the text without being part of it.
    end_of_text: whether `<|endoftext|>` does so, too.
    overflow: at the end of the context "stop", or "slide": go on from the beginning and the recent
        end of the text, read anew.
    """

    length: int | None = None
    strings: Seq[str] = ()
    tokens: Seq[int] = ()
    end_of_text: bool = True
    overflow: Literal["stop", "slide"] = "stop"

    def __post_init__(self) -> None:
        length = self.length
        if length is not None and (not whole(length) or length < 1):
            raise InvalidSetting(f"length must be 1 or more, a whole number, not {length}")
        if isinstance(self.strings, str):
            object.__setattr__(self, "strings", (self.strings,))
        for name in ("strings", "tokens"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple | set | frozenset):
                raise InvalidSetting(f"stop {name} must be a list, not {value!r}")
            object.__setattr__(self, name, tuple(value))
        if any(not isinstance(string, str) or not string for string in self.strings):
            raise InvalidSetting("a stop string must not be empty")
        if any(not whole(token) or token < 0 for token in self.tokens):
            raise InvalidSetting(f"stop tokens must be ids, not {self.tokens}")
        if self.overflow not in ("stop", "slide"):
            raise InvalidSetting(f"overflow must be stop or slide, not {self.overflow!r}")


class StopStrings:
    """Looks for strings in a text that arrives in pieces; holds back what may become one.

    What `push` and `close` return together is the text before the string that ends first (of
    several that end at once the longest), however the text was cut into pieces.
    """

    def __init__(self, strings: Collection[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """The text that is ready now; nothing more comes once a string is `found`."""
        if not self._strings:
            return piece
        text = self._held + piece
        ends = [
            (start + len(string), -len(string), string)
            for string in self._strings
            if (start := text.find(string)) >= 0
        ]
        if ends:
            end, _, self.found = min(ends)
            self._held = ""
            return text[: end - len(self.found)]
        ready = len(text) - max(_overlap(text, string) for string in self._strings)
        self._held = text[ready:]
        return text[:ready]

    def close(self) -> str:
        """What was held back and has become no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Characters at the end of `text` that begin `string`."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if string.startswith(text[-n:])), 0)
