"""Checks that a released checkpoint's files are what OpenAI published, and keeps a receipt of it.

Files are checked by size and sha256 where those are known; other indexes and `hparams.json` by the
shape that they must describe; the weights by the crc32c that the index has of every variable. Such
a checksum finds damage; it finds forgery only where the sha256 of the index is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from gpt2rt.bundles.catalog import (
    CHECKPOINT_FILES,
    DATA,
    HPARAMS,
    INDEX,
    META,
    STATE,
    Release,
)
from gpt2rt.bundles.files import sha256
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.protobuf import fields
from gpt2rt.bundles.writing import write_text
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.fetch.tensor_bundle import Variable, mask, read_index

RECEIPT = ".verified.json"
FORMAT = 1  # of the receipt; another one counts as none
CHUNK = 1 << 22  # bytes
NAMED = 5  # the most damaged variables that a message names

Advance = Callable[[int], None]


def fault(
    name: str, path: Path, release: Release, directory: Path, advance: Advance = lambda done: None
) -> str | None:
    """What is wrong with the file at `path` as the file `name` of the release; None: nothing.

    The data file is checked against the index in `directory`, which must have been checked before;
    `advance` is called with the bytes read of it. Raises `OSError` where a file cannot be read.
    """
    found, wanted = path.stat().st_size, release.size(name)
    if wanted is not None and found != wanted:
        return f"{found:,} bytes, not {wanted:,}"
    if name == DATA and (reason := _data_fault(path, directory / INDEX, advance)):
        return reason  # it names the variables
    if name in release.known:
        digest, right = sha256(path), release.known[name].sha256
        return None if digest == right else f"sha256 {digest[:8]}, not {right[:8]}"
    if name == DATA:
        return None
    try:
        return FAULTS[name](path, release)
    except BadCheckpoint as error:
        return str(error).removeprefix(f"{path}: ")


def _state_fault(path: Path, release: Release) -> str | None:
    prefix = INDEX.removesuffix(".index")
    wanted = f'model_checkpoint_path: "{prefix}"\nall_model_checkpoint_paths: "{prefix}"\n'
    return (
        None if path.read_bytes() == wanted.encode() else f"does not name {prefix} and nothing else"
    )


def _hparams_fault(path: Path, release: Release) -> str | None:
    found = HParams.read(path)
    if odd := json.loads(path.read_bytes()).keys() - found.as_dict().keys():
        return f"unknown names {', '.join(map(ascii, sorted(odd)))}"
    return None if found == release.hparams else f"{found}, not {release.hparams}"


def _index_fault(path: Path, release: Release) -> str | None:
    found = read_index(path)
    if {name: variable.shape for name, variable in found.items()} != release.hparams.variables():
        return f"not the variables of {release.name}"
    end = 0
    for name, variable in sorted(found.items(), key=lambda item: item[1].offset):
        if not variable.fits or variable.shard != 0 or variable.offset != end:
            return f"{name} is not where a float32 checkpoint has it"
        end += variable.bytes
    return None if end == release.data_bytes else f"{end:,} bytes of data, not {release.data_bytes}"


def _meta_fault(path: Path, release: Release) -> str | None:
    """Only that it is a whole protobuf message: TensorFlow's graph is never used here."""
    try:
        return None if any(True for _ in list(fields(path.read_bytes()))) else "empty"
    except (ValueError, IndexError) as error:
        return f"not a TensorFlow graph ({error})"


FAULTS: dict[str, Callable[[Path, Release], str | None]] = {
    STATE: _state_fault,
    HPARAMS: _hparams_fault,
    INDEX: _index_fault,
    META: _meta_fault,
}


def _data_fault(path: Path, index: Path, advance: Advance) -> str | None:
    """The variables whose crc32c is not that of the index, in words; None: none."""
    variables = sorted(read_index(index).items(), key=lambda item: item[1].offset)
    with path.open("rb") as file:
        bad = [name for name, variable in variables if not _is_whole(file, variable, advance)]
    if not bad:
        return None
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"damaged in {', '.join(bad[:NAMED])}{more} (crc32c, of {len(variables)} variables)"


def _is_whole(file: BinaryIO, variable: Variable, advance: Advance) -> bool:
    file.seek(variable.offset)
    crc, left = 0, variable.bytes
    while left and (chunk := file.read(min(left, CHUNK))):
        crc = google_crc32c.extend(crc, chunk)
        left -= len(chunk)
        advance(len(chunk))
    return left == 0 and mask(crc) == variable.crc32c


class Receipt:
    """Which files of a directory passed their check, with their sizes and times of change then.

    So gigabytes are checked once. A file whose size or time has changed since is no longer trusted,
    and the data file only while its index is.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / RECEIPT
        self._entries: dict[str, list[int]] = {}
        # A damaged receipt counts as none.
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            read = json.loads(self._path.read_text(encoding="utf-8"))
            if read["format"] == FORMAT:
                self._entries = dict(read["files"])

    def trusts(self, name: str) -> bool:
        """Whether `name` is still the file that passed its check."""
        if name == DATA and not self.trusts(INDEX):
            return False
        stamp = self._stamp(name)
        return stamp is not None and self._entries.get(name) == stamp

    def untrusted(self) -> list[str]:
        """The names of a release's files that are missing here, or have not passed their check."""
        return [name for name in CHECKPOINT_FILES if not self.trusts(name)]

    def add(self, name: str) -> None:
        """Record that the file `name` passed its check. Raises `OSError`.

        A new index makes an earlier check of the weights void.
        """
        if name == INDEX:
            self._entries.pop(DATA, None)
        stamp = self._stamp(name)
        assert stamp is not None
        self._entries[name] = stamp
        text = json.dumps({"format": FORMAT, "files": self._entries}, indent=2)
        write_text(self._path, f"{text}\n")

    def _stamp(self, name: str) -> list[int] | None:
        try:
            status = (self._directory / name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]
