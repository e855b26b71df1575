"""Downloads a released checkpoint: missing files are fetched, checked and put into place.

The small files come first, so that a missing one is reported before gigabytes are fetched, and so
that the weights can be checked against an index that was checked itself.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
from filelock import Timeout

from gpt2rt.bundles.catalog import (
    CHECKPOINT_FILES,
    DATA,
    ENCODER,
    INDEX,
    MERGES,
    RELEASES,
    Release,
    checkpoint_directory,
)
from gpt2rt.bundles.writing import check_space
from gpt2rt.errors import DownloadFailure
from gpt2rt_export.fetch.integrity import Receipt, fault
from gpt2rt_export.fetch.lock import lock_of
from gpt2rt_export.fetch.network import Network
from gpt2rt_export.fetch.partial import Partial
from gpt2rt_export.fetch.transfer import Wanted, failure_of, fetch
from gpt2rt_export.progress import DownloadProgress, NoProgress

SMALL = tuple(name for name in CHECKPOINT_FILES if name != DATA)
UNKNOWN = 4 << 20  # bytes: room for all files whose size is not known


@dataclass(frozen=True, slots=True)
class Downloaded:
    """The directory of a whole checkpoint, and the names of the files that this call fetched."""

    directory: Path
    fetched: tuple[str, ...] = ()


def download(
    release: Release,
    directory: Path,
    network: Network | None = None,
    progress: DownloadProgress | None = None,
    names: Sequence[str] = CHECKPOINT_FILES,
) -> Downloaded:
    """Put a release's files `names` into `directory`, each checked; what is there is not fetched.

    One process at a time works on a directory; others wait for it. An interrupted download is
    resumed by the next call. Raises `DownloadFailure` naming every file that is missing or bad,
    and why; `InvalidSetting` for a proxy that cannot be used.
    """
    network, progress = network or Network.chosen(), progress or NoProgress()
    if not set(names) & set(Receipt(directory).untrusted()):
        return Downloaded(directory)
    if network.offline:
        return _offline(release, directory, progress, names)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory, progress):
            fetched = _complete(release, directory, network, progress, names)
            return Downloaded(directory, tuple(fetched))
    except OSError as error:
        raise _disk_failure(error, release, directory) from None


def vocabulary(network: Network | None = None, progress: DownloadProgress | None = None) -> Path:
    """The directory of GPT-2's tokenizer files: a release's in the home directory, else fetched.

    Raises what `download` does.
    """
    for release in RELEASES:
        directory = checkpoint_directory(release.name)
        if not {ENCODER, MERGES} & set(Receipt(directory).untrusted()):
            return directory
    release = RELEASES[0]
    directory = checkpoint_directory(release.name)
    return download(release, directory, network, progress, (ENCODER, MERGES)).directory


@contextmanager
def _locked(directory: Path, progress: DownloadProgress) -> Iterator[None]:
    """Hold the directory's lock, which the system releases when a process dies."""
    lock = lock_of(directory)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.note(f"another process is downloading into {directory}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _complete(
    release: Release,
    directory: Path,
    network: Network,
    progress: DownloadProgress,
    names: Sequence[str],
) -> list[str]:
    """Check the files that are there and fetch the rest; returns the names of those fetched."""
    receipt = Receipt(directory)
    fetched = []
    for part in _parts(names):
        bad = _check_in_place(part, release, directory, receipt, progress)
        for name, reason in bad.items():
            progress.note(f"{directory / name}: {reason}; it is fetched again")
        absent = [name for name in names if not (directory / name).is_file()]
        _check_space(release, directory, [*absent, *bad])
        missing = [name for name in part if not receipt.trusts(name)]
        _replace(missing, release, directory, receipt, network, progress)
        fetched += missing
    return fetched


def _parts(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The small files, then the weights."""
    return [n for n in SMALL if n in names], [n for n in names if n == DATA]


def _check_in_place(
    names: Sequence[str],
    release: Release,
    directory: Path,
    receipt: Receipt,
    progress: DownloadProgress,
) -> dict[str, str]:
    """Check the files in place that have no receipt; returns the bad ones, with what is wrong."""
    bad = {}
    for name in names:
        if not receipt.trusts(name) and (directory / name).is_file():
            if reason := _fault(name, directory / name, release, directory, progress):
                bad[name] = reason
            else:
                with suppress(OSError):  # a read-only directory is checked at every call
                    receipt.add(name)
    return bad


def _replace(
    names: Sequence[str],
    release: Release,
    directory: Path,
    receipt: Receipt,
    network: Network,
    progress: DownloadProgress,
) -> None:
    """Fetch `names`, check them and put the good ones into place; fetch damaged ones again.

    Raises `DownloadFailure` for files that cannot be fetched or stay damaged.
    """
    files = [_wanted(release, directory, name, network) for name in names]
    while files:
        lost = fetch(files, network, progress)
        bad = []
        for file in files:
            if file in lost:
                continue
            if reason := _fault(file.name, file.partial.path, release, directory, progress):
                file.discard(f"came damaged: {reason}")
                bad.append(file)
            else:
                file.partial.publish()
                receipt.add(file.name)
        if lost:
            raise failure_of([*lost, *bad])
        if any(file.failures > network.retries for file in bad):
            reasons = "; ".join(f"{file.name} ({file.failure_reasons()})" for file in bad)
            raise DownloadFailure(f"what comes is not what OpenAI published: {reasons}")
        for file in bad:
            progress.note(f"{file.name}: {file.failure_reasons()}; it is fetched again")
        files = bad


def _wanted(release: Release, directory: Path, name: str, network: Network) -> Wanted:
    """A file to fetch; a location may have it under the model's later name or its first."""
    locations = []
    for mirror in map(httpx.URL, network.mirrors):
        paths = [f"{mirror.path.rstrip('/')}/{f}/{name}" for f in (release.alias, release.name)]
        locations.append(tuple(mirror.copy_with(path=path) for path in paths))
    return Wanted(name, Partial(directory / name), locations, release.size(name))


def _fault(
    name: str, path: Path, release: Release, directory: Path, progress: DownloadProgress
) -> str | None:
    done = 0

    def advance(bytes: int) -> None:
        nonlocal done
        done += bytes
        progress.bytes_done(f"check {name}", done, release.data_bytes)

    return fault(name, path, release, directory, advance)


# ---- without the network


def _offline(
    release: Release, directory: Path, progress: DownloadProgress, names: Sequence[str]
) -> Downloaded:
    """Raises `DownloadFailure` naming every file that is missing or bad."""
    receipt = Receipt(directory)
    absent = [name for name in names if not (directory / name).is_file()]
    small, weights = _parts(names)
    try:
        bad = _check_in_place(small, release, directory, receipt, progress)
        if INDEX not in bad and INDEX not in absent:
            bad |= _check_in_place(weights, release, directory, receipt, progress)
    except OSError as error:
        raise DownloadFailure(f"{error.filename or directory}: {error.strerror}") from None
    facts = [f"{', '.join(absent)} missing"] if absent else []
    facts += [f"{name}: {reason}" for name, reason in bad.items()]
    if facts:
        raise DownloadFailure(
            f"{directory}: {'; '.join(facts)}; offline, nothing is fetched: run "
            f"`gpt2rt download {release.name}` with a network, or put the files there by hand"
        )
    return Downloaded(directory)


def _needed(release: Release, directory: Path, names: Sequence[str]) -> int:
    """Bytes of `names` that are still to be fetched."""
    sizes = [(release.size(name) or 0) - Partial(directory / name).held for name in names]
    return sum(max(0, size) for size in sizes) + UNKNOWN


def _check_space(release: Release, directory: Path, names: Sequence[str]) -> None:
    """Raises `DownloadFailure` where the disk has no room for `names`."""
    if names:
        needed = _needed(release, directory, names)
        remedy = "make room, or set GPT2RT_HOME to a place on another disk"
        check_space(directory, needed, release.name, remedy, DownloadFailure)


def _disk_failure(error: OSError, release: Release, directory: Path) -> DownloadFailure:
    place, reason = error.filename or directory, error.strerror or error
    if error.errno == errno.ENOSPC:
        absent = [name for name in CHECKPOINT_FILES if not (directory / name).is_file()]
        needed = _needed(release, directory, absent)
        return DownloadFailure(
            f"{directory}: no space left, {needed / 1e6:,.0f} MB are still to come; make room and "
            "run it again: what came is kept"
        )
    return DownloadFailure(
        f"{place}: cannot be written ({reason}); GPT2RT_HOME names another place for checkpoints"
    )
