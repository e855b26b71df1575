"""Paths as text that means the same in every locale.

Python reads a path by the locale's encoding, which need not be UTF-8: `ü` may come as two
surrogates.
"""

from __future__ import annotations

import os


def portable(path: str | os.PathLike[str]) -> str:
    """A path of this process as text: its bytes read as UTF-8, others as surrogates."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def local(text: str) -> str:
    """What `portable` made, as a path of this process."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))
