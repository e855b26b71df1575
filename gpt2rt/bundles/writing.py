"""Files that appear whole or not at all, and room for them on the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gpt2rt.errors import Gpt2rtError


def write_text(place: Path, text: str) -> None:
    """Write `text` as UTF-8 into the file `place`, replacing it as a whole. Raises `OSError`."""
    write_bytes(place, text.encode("utf-8"))


def write_bytes(place: Path, data: bytes) -> None:
    """Write `data` into the file `place`, replacing it as a whole. Raises `OSError`.

    A device or a pipe is written to as it is.
    """
    if place.exists() and not place.is_file():
        place.write_bytes(data)
        return
    write_with(place, lambda file: file.write(data))


def write_with(place: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file, open for reading, too, that then replaces the file `place`.

    Where it raises, all stays as it was. Raises `OSError`.
    """
    handle, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.absolute().parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            write(file)
        Path(name).chmod(place.stat().st_mode if place.exists() else 0o666 & ~_umask())
        put_in_place(Path(name), place)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def put_in_place(written: Path, place: Path) -> None:
    """Rename a finished file to `place`, its bytes on the disk beforehand. Raises `OSError`."""
    with written.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(written, place)


def check_space(
    directory: Path,
    needed: int,
    what: str,
    remedy: str,
    error: type[Gpt2rtError] = Gpt2rtError,
) -> None:
    """Raises `error` where the disk of `directory` has fewer than `needed` bytes free.

    Its message says that `what` (`the bundle`) needs them, and `remedy`, what a user can do.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise error(
            f"{directory}: {what} needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; "
            f"{remedy}"
        )
