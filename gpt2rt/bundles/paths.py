"""Paths as text that is the same in every locale.

Python decodes paths by the locale's encoding. If that is not UTF-8, `ü` may become two surrogates.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def portable(path: str | os.PathLike[str]) -> str:
    """The text of a path: its bytes decoded as UTF-8, invalid ones as surrogates."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def local(text: str) -> str:
    """The path whose text, by `portable`, is `text`."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half a surrogate pair, which no path has
        return text


def native(path: Path) -> str | bytes:
    """A path as ONNX Runtime takes it: the bytes of the system, since it decodes text as UTF-8.

    In a locale without UTF-8 text would be wrong for every path beyond ASCII.
    """
    return str(path) if os.name == "nt" else os.fsencode(path)


def path_text(path: str | os.PathLike[str]) -> str:
    r"""The text of a path for results: always valid Unicode, bytes that are no UTF-8 as `\xff`."""
    data = os.fspath(path).encode("utf-8", sys.getfilesystemencodeerrors())
    return data.decode("utf-8", "backslashreplace")
