"""The text of standard input."""

from __future__ import annotations

import sys

from gpt2rt.corpus.names import STDIN_NAME
from gpt2rt.text.textfile import decoded


def read() -> str:
    """Standard input as UTF-8, less the newline that ends a file. Raises `BadText`."""
    text = decoded(sys.stdin.buffer.read(), STDIN_NAME)
    return text.removesuffix("\n").removesuffix("\r")
