"""A request to a server, and what has to hold of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

REFUSED = {400, 404, 405, 408, 413, 415, 422, 431}
BUSY = {429, 503}
ALPHABET = "ab cdé€😀.\n"


@dataclass(frozen=True)
class ServedRequest:
    """A request, and what has to hold of its answer.

    `check` is given the JSON of an answer with status 200, for a stream the list of its events; it
    raises `AssertionError`, or the library's error where the server should have refused. Without
    it the request is wrong and has to be refused.
    """

    kind: str
    method: str
    path: str
    content: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any], None] | None = None

    @property
    def sent(self) -> bytes:
        """What goes over the connection."""
        fields = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(self.content)),
            "Connection": "close",
            **self.fields,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.content


def random_text(random: Random, most: int = 8) -> str:
    return "".join(random.choices(ALPHABET, k=random.randint(1, most)))
