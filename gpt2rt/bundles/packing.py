"""A bundle as a single file: a zip archive whose members are stored, not compressed.

The manifest is the first member; it lists all others with size and sha256. Since nothing is
compressed, no archive unpacks to more than its own size. Packing a bundle twice gives equal files.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import bundles_directory
from gpt2rt.bundles.files import FileRecord, open_regular
from gpt2rt.bundles.manifest import LARGEST_TEXT, MANIFEST, Manifest, read_manifest
from gpt2rt.bundles.paths import local
from gpt2rt.bundles.writing import check_space
from gpt2rt.errors import BadBundle, BundleExists, Gpt2rtError

SUFFIX = ".gpt2rt"
ELSEWHERE = "make room, or choose another place with --output"
CHUNK = 1 << 20
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that the zip format allows

Advance = Callable[[int], None]


def pack(
    bundle: Bundle, file: Path, *, force: bool = False, advance: Advance = lambda done: None
) -> None:
    """Write `bundle` to `file`, atomically.

    `advance` is called with the number of bytes written since its last call. `force` replaces a
    packed bundle. Raises `BundleExists` if `file` exists, `BadBundle` for a damaged bundle,
    `Gpt2rtError` if `file` cannot be written.
    """
    if file.exists() and not (force and file.is_file() and zipfile.is_zipfile(file)):
        raise BundleExists(
            f"{file}: exists already; name another file, or replace a packed bundle with --force"
        )
    try:
        _write(bundle, file, advance)
    except OSError as error:
        reason = error.strerror or error
        raise Gpt2rtError(f"{file}: {reason}; choose another place with --output") from None


def _write(bundle: Bundle, file: Path, advance: Advance) -> None:
    check_space(file.absolute().parent, bundle.bytes, "the file", ELSEWHERE)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.partial-", dir=file.absolute().parent)
    work = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw, zipfile.ZipFile(raw, "w") as archive:
            _store(archive, MANIFEST, bundle.directory / MANIFEST, lambda done: None)
            for member, record in bundle.manifest.files.items():
                found = _store(archive, member, bundle.directory / member, advance)
                if found != record:
                    bundle.check([member])
                    raise BadBundle(f"{bundle.directory / member}: changed while it was packed")
        work.chmod(0o644)  # mkstemp's files are private
        work.replace(file)
    finally:
        work.unlink(missing_ok=True)


def unpack(
    file: Path, directory: Path | None = None, *, advance: Advance = lambda done: None
) -> Bundle:
    """Unpack a packed bundle to `directory` (None: its name in the home directory) and open it.

    Every member is compared with the manifest before the directory appears. `advance` is as in
    `pack`. Raises `BadBundle` for a file that is damaged or not a packed bundle, `BundleExists` if
    the directory exists and is not empty.
    """
    try:
        with open_regular(file) as raw, zipfile.ZipFile(raw) as archive:
            return _unpack(archive, file, directory, advance)
    except Gpt2rtError:
        raise
    except OSError as error:
        # An offset beyond the end of the file, a full disk, or an unreadable file.
        place, reason = error.filename or file, error.strerror or error
        raise BadBundle(f"{place}: {reason}; nothing was unpacked") from None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
        # What zipfile raises for files that are not valid archives.
        raise BadBundle(f"{file}: no packed bundle, or a damaged one ({error})") from None


def _unpack(
    archive: zipfile.ZipFile, file: Path, directory: Path | None, advance: Advance
) -> Bundle:
    members = _members(archive, file)
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / MANIFEST
        text = archive.read(MANIFEST)  # its size is known to be small
        path.write_bytes(text)
        try:
            manifest = read_manifest(path)
        except BadBundle as error:
            raise BadBundle(str(error).replace(str(path), f"{file}: {MANIFEST}")) from None
    _check_members(members, manifest, file)
    bundle = Bundle(Path(), manifest)
    if directory is None and bundle.name.startswith("."):
        raise BadBundle(
            f"{file}: no bundle of the home directory is called {bundle.name!r}; "
            "choose a place with --output"
        )
    place = (directory or bundles_directory() / local(bundle.name)).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise BundleExists(f"{place}: exists already; choose another place with --output")
    place.parent.mkdir(parents=True, exist_ok=True)
    check_space(place.parent, bundle.bytes, "the bundle", ELSEWHERE)
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}.partial-", dir=place.parent))
    try:
        for name, record in manifest.files.items():
            with archive.open(name) as source, (work / name).open("xb") as target:
                if _copy(source, target, record.bytes, advance) != record:
                    raise BadBundle(f"{file}: {name} is damaged; fetch the file again")
        (work / MANIFEST).write_bytes(text)
        work.chmod(0o755)  # mkdtemp's directories are private
        Bundle.open(work)
        if place.exists():
            place.rmdir()  # empty, as was seen above
        work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Bundle.open(place)


def _members(archive: zipfile.ZipFile, file: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by name.

    Raises `BadBundle` for links, directories, compressed, encrypted and repeated members.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = _plain(info.filename, file)
        kind = info.external_attr >> 28  # the file's type in its Unix mode; 0 where there is none
        if name in members or info.flag_bits & 1 or kind not in (0, 8) or info.compress_type:
            raise BadBundle(f"{file}: {name} is there twice, or is no plain stored file")
        members[name] = info
    if MANIFEST not in members:
        raise BadBundle(f"{file}: holds no {MANIFEST}, so no bundle")
    if members[MANIFEST].file_size > LARGEST_TEXT:
        raise BadBundle(f"{file}: {MANIFEST} is {members[MANIFEST].file_size} bytes")
    return members


def _plain(name: str, file: Path) -> str:
    if not PLAIN_NAME.fullmatch(name):
        raise BadBundle(f"{file}: {name!a:.60} is not the name of a bundle's file")
    return name


def _check_members(members: dict[str, zipfile.ZipInfo], manifest: Manifest, file: Path) -> None:
    strange = sorted(set(members) ^ {MANIFEST, *manifest.files})
    if strange:
        raise BadBundle(f"{file}: {', '.join(strange)[:200]}: missing, or not in the manifest")
    for name, record in manifest.files.items():
        if members[name].file_size != record.bytes:
            raise BadBundle(
                f"{file}: {name} has {members[name].file_size} bytes, not the {record.bytes} of "
                "the manifest; fetch the file again"
            )
    if sum(record.bytes for record in manifest.files.values()) > file.stat().st_size:
        raise BadBundle(f"{file}: shorter than what it claims to hold")


def _store(archive: zipfile.ZipFile, name: str, path: Path, advance: Advance) -> FileRecord:
    info = zipfile.ZipInfo(name, DATE)
    info.external_attr = 0o100644 << 16
    info.create_system = 3  # Unix, wherever this runs
    with open_regular(path) as source:
        size = info.file_size = os.fstat(source.fileno()).st_size
        with archive.open(info, "w", force_zip64=size >> 31 > 0) as target:
            return _copy(source, target, size, advance)


def _copy(source: IO[bytes], target: IO[bytes], limit: int, advance: Advance) -> FileRecord:
    """Copy to the end of `source`, but at most `limit + 1` bytes.

    Returns the size and sha256 of what was copied.
    """
    digest, done = hashlib.sha256(), 0
    while part := source.read(min(CHUNK, limit + 1 - done)):
        target.write(part)
        digest.update(part)
        done += len(part)
        advance(len(part))
    return FileRecord(done, digest.hexdigest())
