"""A released checkpoint in its directory: what is missing is fetched, checked and put into place.

The small files come first: nobody waits for gigabytes to hear that a small one is not to be had,
and the weights are checked by an index that has been found good.
"""

from __future__ import annotations

import errno
import shutil
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
from gpt2rt.errors import DownloadFailure
from gpt2rt_export.fetch.integrity import Receipt, fault
from gpt2rt_export.fetch.lock import lock_of
from gpt2rt_export.fetch.network import Network
from gpt2rt_export.fetch.partial import Partial
from gpt2rt_export.fetch.transfer import Report, Silent, Wanted, fetch, in_vain

SMALL = tuple(name for name in CHECKPOINT_FILES if name != DATA)
UNKNOWN = 4 << 20  # bytes: room for the files whose size is not known, all together


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Where a whole checkpoint lies, and the files of it that were fetched just now."""

    directory: Path
    fetched: tuple[str, ...] = ()


def download(
    release: Release,
    directory: Path,
    network: Network | None = None,
    report: Report | None = None,
    names: Sequence[str] = CHECKPOINT_FILES,
) -> Downloaded:
    """Make `directory` hold a release's files `names`, each checked. Asks nobody where it does.

    One process at a time works on a directory; others wait for it. What was fetched before an
    error or a kill is kept, and the next call goes on from there. Raises `DownloadFailure` naming
    every file that is missing or bad, and why; `InvalidSetting` for proxies that cannot be used.
    """
    network, report = network or Network.chosen(), report or Silent()
    if not set(names) & set(Receipt(directory).untrusted()):
        return Downloaded(directory)
    if network.offline:
        return _offline(release, directory, report, names)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory, report):
            fetched = _complete(release, directory, network, report, names)
            return Downloaded(directory, tuple(fetched))
    except OSError as error:
        raise _on_disk(error, release, directory) from None


def vocabulary(network: Network | None = None, report: Report | None = None) -> Path:
    """The directory of GPT-2's own tokenizer files: a release's that is here, else fetched."""
    for release in RELEASES:
        directory = checkpoint_directory(release.name)
        if not {ENCODER, MERGES} & set(Receipt(directory).untrusted()):
            return directory
    release = RELEASES[0]
    directory = checkpoint_directory(release.name)
    return download(release, directory, network, report, (ENCODER, MERGES)).directory


@contextmanager
def _alone(directory: Path, report: Report) -> Iterator[None]:
    """Holds the directory's lock, which the system takes back when a process dies."""
    lock = lock_of(directory)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report.note(f"another process is downloading into {directory}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _complete(
    release: Release, directory: Path, network: Network, report: Report, names: Sequence[str]
) -> list[str]:
    """Check what is there and fetch the rest; returns the names of what was fetched."""
    receipt = Receipt(directory)
    fetched = []
    for part in _parts(names):
        bad = _check_in_place(part, release, directory, receipt, report)
        for name, reason in bad.items():
            report.note(f"{directory / name}: {reason}; it is fetched again")
        absent = [name for name in names if not (directory / name).is_file()]
        _check_space(release, directory, [*absent, *bad])
        missing = [name for name in part if not receipt.trusts(name)]
        _replace(missing, release, directory, receipt, network, report)
        fetched += missing
    return fetched


def _parts(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The small files, then the weights."""
    return [n for n in SMALL if n in names], [n for n in names if n == DATA]


def _check_in_place(
    names: Sequence[str], release: Release, directory: Path, receipt: Receipt, report: Report
) -> dict[str, str]:
    """Check the files that lie in place unchecked; returns what is wrong with the bad ones."""
    bad = {}
    for name in names:
        if not receipt.trusts(name) and (directory / name).is_file():
            if reason := _fault(name, directory / name, release, directory, report):
                bad[name] = reason
            else:
                with suppress(OSError):  # a directory that may only be read is as good
                    receipt.add(name)
    return bad


def _replace(
    names: Sequence[str],
    release: Release,
    directory: Path,
    receipt: Receipt,
    network: Network,
    report: Report,
) -> None:
    """Fetch `names`, check them, put the good ones into place; the bad ones again."""
    files = [_wanted(release, directory, name, network) for name in names]
    while files:
        lost = fetch(files, network, report)
        bad = []
        for file in files:
            if file in lost:
                continue
            if reason := _fault(file.name, file.partial.path, release, directory, report):
                file.spoilt(f"came damaged: {reason}")
                bad.append(file)
            else:
                file.partial.publish()
                receipt.add(file.name)
        if lost:
            raise in_vain([*lost, *bad])
        if any(file.failures > network.retries for file in bad):
            told = "; ".join(f"{file.name} ({file.why()})" for file in bad)
            raise DownloadFailure(f"what comes is not what OpenAI published: {told}")
        for file in bad:
            report.note(f"{file.name}: {file.why()}; it is fetched again")
        files = bad


def _wanted(release: Release, directory: Path, name: str, network: Network) -> Wanted:
    """A file and where it may be: at a location under the model's later name, or its first."""
    locations = []
    for mirror in map(httpx.URL, network.mirrors):
        paths = [f"{mirror.path.rstrip('/')}/{f}/{name}" for f in (release.alias, release.name)]
        locations.append(tuple(mirror.copy_with(path=path) for path in paths))
    return Wanted(name, Partial(directory / name), locations, release.size(name))


def _fault(name: str, path: Path, release: Release, directory: Path, report: Report) -> str | None:
    done = 0

    def advance(bytes: int) -> None:
        nonlocal done
        done += bytes
        report.progress(f"check {name}", done, release.data_bytes)

    return fault(name, path, release, directory, advance)


# ---- what can be known without the network


def _offline(release: Release, directory: Path, report: Report, names: Sequence[str]) -> Downloaded:
    """Raises `DownloadFailure` naming every file that is missing or bad."""
    receipt = Receipt(directory)
    absent = [name for name in names if not (directory / name).is_file()]
    small, weights = _parts(names)
    try:
        bad = _check_in_place(small, release, directory, receipt, report)
        if INDEX not in bad and INDEX not in absent:
            bad |= _check_in_place(weights, release, directory, receipt, report)
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
    """Bytes that are still to come."""
    sizes = [(release.size(name) or 0) - Partial(directory / name).held for name in names]
    return sum(max(0, size) for size in sizes) + UNKNOWN


def _check_space(release: Release, directory: Path, names: Sequence[str]) -> None:
    """Raises `DownloadFailure` where the disk has no room for `names`."""
    if not names:
        return
    needed, free = _needed(release, directory, names), shutil.disk_usage(directory).free
    if needed > free:
        raise DownloadFailure(
            f"{directory}: {release.name} needs {needed / 1e6:,.0f} MB more, {free / 1e6:,.0f} MB "
            "are free; make room, or set GPT2RT_HOME to a place on another disk"
        )


def _on_disk(error: OSError, release: Release, directory: Path) -> DownloadFailure:
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
