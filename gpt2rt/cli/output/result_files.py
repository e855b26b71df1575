"""Files that a command writes one of: a page, a plot, a report, a run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gpt2rt.bundles.writing import write_bytes
from gpt2rt.errors import Gpt2rtError


def check(path: Path | None) -> None:
    """Raises `Gpt2rtError` where no file can be written, before any work is done in vain."""
    if path is None:
        return
    if path.is_dir():
        raise Gpt2rtError(f"{path}: is a directory; name a file")
    if not path.absolute().parent.is_dir():
        raise Gpt2rtError(f"{path}: its directory does not exist; make it first")
    if path.exists() and not path.is_file():  # a device or a pipe
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise Gpt2rtError(
            f"{path}: its directory cannot be written to ({error.strerror}); choose another"
        ) from None
    os.close(handle)
    os.unlink(name)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises `Gpt2rtError`."""
    try:
        write_bytes(path, data)
    except OSError as error:
        raise Gpt2rtError(f"{path}: cannot be written ({error.strerror})") from None
