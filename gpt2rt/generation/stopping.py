"""When a generated text ends: settings, reasons, and the search for stop strings."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from gpt2rt.checks import whole
from gpt2rt.errors import InvalidSetting

FinishReason = Literal["length", "end_of_text", "stop_token", "stop_string", "context", "complete"]


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a text ends. Raises `InvalidSetting` for invalid values.

    Attributes:
        length: the most new tokens; None: as many as fit the context (no limit if it slides).
        strings: the text ends before the first of these strings, independent of token boundaries.
        tokens: ids that end the text and are not part of it.
        end_of_text: whether `<|endoftext|>` ends the text, too.
        overflow: at the end of the context "stop" ends the text; "slide" continues after its
            beginning and its recent end, which are read again.
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
    """Finds strings in a text that arrives in pieces, and holds back what may become one.

    The text that `push` and `close` return, joined, is the text before the string that ends first
    (if several end there, the longest), however the text is split into pieces.
    """

    def __init__(self, strings: Collection[str]) -> None:
        self._automaton = _automaton(tuple(strings)) if strings else None
        self._state = 0
        self._held = ""
        self.match: str | None = None

    def push(self, piece: str) -> str:
        """Add a piece; returns the text that is final now.

        `match` is the stop string once there is one; no pieces may be added after that.
        """
        if self._automaton is None:
            return piece
        text = self._held + piece
        for end, character in enumerate(piece, len(self._held) + 1):
            self._state = self._automaton.step(self._state, character)
            if length := self._automaton.longest[self._state]:
                self.match = text[end - length : end]
                self._held = ""
                return text[: end - length]
        ready = len(text) - self._automaton.depth[self._state]
        self._held = text[ready:]
        return text[:ready]

    def close(self) -> str:
        """The text that was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """Finds any of several strings in one pass over a text (Aho and Corasick 1975).

    A state is the longest suffix of the text so far that is a prefix of a string. `depth` is its
    length, `longest` that of the longest string that ends there, or 0.
    """

    def __init__(self, strings: Collection[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.longest = [0]
        for string in strings:
            state = 0
            for character in string:
                state = self._next[state].setdefault(character, len(self.depth))
                if state == len(self.depth):
                    self._next.append({})
                    self.depth.append(0)
                    self.longest.append(0)
            self.longest[state] = len(string)
        self._failure = [0] * len(self.depth)
        self._link()

    def _link(self) -> None:
        """Compute the failure links: from each state to its next shorter suffix that is a state."""
        waiting = deque([0])
        while waiting:
            state = waiting.popleft()
            for character, after in self._next[state].items():
                self.depth[after] = self.depth[state] + 1
                self._failure[after] = self.step(self._failure[state], character) if state else 0
                self.longest[after] = max(self.longest[after], self.longest[self._failure[after]])
                waiting.append(after)

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (after := self._next[state].get(character)) is None and state:
            state = self._failure[state]
        return after or 0


@lru_cache(maxsize=4)
def _automaton(strings: tuple[str, ...]) -> _Automaton:
    return _Automaton(strings)
