"""Fetches files over HTTP, several at once, from one location after another, and resumes them.

The bytes of an unfinished file are in a `Partial` beside its place. Whether they are the right ones
is checked by `integrity`.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import random
import re
import ssl
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx2 as httpx
import socksio

from gpt2rt.bundles.network_rules import is_final
from gpt2rt.errors import DownloadFailure, InvalidSetting
from gpt2rt_export.fetch.network import Network, shown
from gpt2rt_export.fetch.partial import Partial
from gpt2rt_export.progress import DownloadProgress

LARGEST = 1 << 26  # bytes of a file whose size neither the catalogue nor the server says


class Interrupted(Exception):
    """A request that brought no file, or only a part of one; another try may succeed.

    `wait`: seconds that the server asks to wait before that.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Refused(Exception):
    """A request that another try would not help, such as one for a file that is not there."""


@dataclass(slots=True, eq=False)
class Wanted:
    """A file to fetch: its locations, its size in bytes if known, and the tries so far.

    A location is a row of URLs; each is asked where the one before has no such file. A file of
    known size is checked byte for byte later, so any location may continue it.
    """

    name: str
    partial: Partial
    locations: list[tuple[httpx.URL, ...]]
    bytes: int | None
    failures: int = 0  # tries in a row that brought no new bytes
    most_held: int = 0  # the most bytes that any try has reached
    reasons: dict[str, str] = field(default_factory=dict)  # URL of a folder -> its last error

    def count_failure(self) -> None:
        """Count a failed try; one that brought more bytes than any before starts the count anew."""
        held = self.partial.held
        self.failures = 1 if held > self.most_held else self.failures + 1
        self.most_held = max(self.most_held, held)

    def discard(self, reason: str) -> None:
        """Delete bytes that were found wrong, and ask the locations that they are from last."""
        bad = self.partial.sources
        self.most_held = max(self.most_held, self.partial.held)
        self.partial.restart()
        self.reasons.update((folder(source), reason) for source in bad)
        self.locations.sort(key=lambda urls: any(shown(url) in bad for url in urls))
        self.failures += 1

    def failure_reasons(self) -> str:
        """Every folder that was asked, with its last error."""
        return "; ".join(f"{place}: {reason}" for place, reason in self.reasons.items())


def folder(url: str) -> str:
    """A URL without the name of its file."""
    return url.rpartition("/")[0]


def fetch(files: Sequence[Wanted], network: Network, progress: DownloadProgress) -> list[Wanted]:
    """Fetch every file into its partial, `network.parallel` at once.

    Returns those that could not be fetched, after `network.retries` tries each; `failure_of` makes
    the error of them. Raises `OSError` where a partial cannot be written.
    """
    try:
        fetched = _awaited(_fetch(files, network, progress))
    except ExceptionGroup as group:  # the error of the disk, once for each file
        raise group.exceptions[0] from None
    return [file for file, whole in zip(files, fetched, strict=True) if not whole]


def _awaited(work: Coroutine[Any, Any, list[bool]]) -> list[bool]:
    """The result of a coroutine; in a thread of its own where a loop runs, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def failure_of(files: Sequence[Wanted]) -> DownloadFailure:
    """The error that names every file and why it could not be fetched."""
    reasons: dict[str, list[str]] = {}  # reason -> files: most often it is the same for all
    for file in files:
        reasons.setdefault(file.failure_reasons(), []).append(file.name)
    failures = [f"{', '.join(names)} cannot be fetched ({why})" for why, names in reasons.items()]
    return DownloadFailure(
        f"{'; '.join(failures)}; check the network, name a --proxy or a --mirror, or put the files "
        f"into {files[0].partial.place.parent} by hand"
    )


@dataclass(frozen=True, slots=True)
class _Session:
    """What all transfers of a run share; `noted` holds the notes that were shown already."""

    client: httpx.AsyncClient
    network: Network
    progress: DownloadProgress
    at_once: asyncio.Semaphore
    noted: set[tuple[str, int]]


async def _fetch(
    files: Sequence[Wanted], network: Network, progress: DownloadProgress
) -> list[bool]:
    at_once = asyncio.Semaphore(network.parallel)
    async with _client(network) as client, asyncio.TaskGroup() as group:
        session = _Session(client, network, progress, at_once, set())
        tasks = [group.create_task(_fetch_one(session, file)) for file in files]
    return [task.result() for task in tasks]


@functools.cache
def certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _client(network: Network) -> httpx.AsyncClient:
    timeout = httpx.Timeout(network.stall_timeout, connect=network.connect_timeout, pool=None)
    try:
        return httpx.AsyncClient(
            follow_redirects=True,
            timeout=timeout,
            proxy=network.proxy,
            verify=certificates(),
            headers={"Accept-Encoding": "identity"},
            event_hooks={"request": [functools.partial(_check_redirect, network)]},
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidSetting(f"a proxy of the environment cannot be used ({error})") from None


async def _check_redirect(network: Network, request: httpx.Request) -> None:
    """Raises `Refused` for a redirect to a URL that could not have been named as a mirror."""
    if not network.may_ask(request.url):
        raise Refused(f"it refers to {shown(request.url)}, over http, which --allow-http allows")


async def _fetch_one(session: _Session, file: Wanted) -> bool:
    """Fetch one file, trying every location again and again; returns whether it came whole."""
    network = session.network
    while file.bytes is None or file.partial.held != file.bytes:
        async with session.at_once:
            waits = []  # seconds, one for each location that may succeed at the next try
            for urls in list(file.locations):
                try:
                    await _try_location(session, urls, file)
                    return True
                except Refused:
                    continue
                except Interrupted as error:
                    waits.append(error.wait)
        file.count_failure()
        if not waits or file.failures > network.retries:
            return False
        wait = min(network.backoff * 2 ** (file.failures - 1), network.longest_wait)
        wait = max(wait * random.uniform(0.5, 1), min(max(waits), network.longest_wait))
        reasons = file.failure_reasons()
        if (reasons, file.failures) not in session.noted:
            session.noted.add((reasons, file.failures))
            session.progress.note(f"{file.name}: {reasons}; trying again in {wait:.1f} s")
        await asyncio.sleep(wait)
    return True


async def _try_location(session: _Session, urls: Sequence[httpx.URL], file: Wanted) -> None:
    """Fetch a file from one location. Raises `Refused` or `Interrupted`."""
    for url in urls:
        place = folder(shown(url))
        try:
            await _request(session, url, file)
            return
        except Refused as error:
            file.reasons[place] = str(error)
        except Interrupted as error:
            file.reasons[place] = str(error)
            raise
        except (httpx.HTTPError, httpx.InvalidURL, socksio.SOCKSError) as error:
            file.reasons[place] = reason = _reason(error, session.network)
            raise Interrupted(reason) from None
    raise Refused


def _reason(error: Exception, network: Network) -> str:
    """An error of the network in words for a user."""
    match error:
        case httpx.ConnectTimeout():
            return f"no connection within {network.connect_timeout:g} s"
        case httpx.ReadTimeout():
            return f"nothing came for {network.stall_timeout:g} s"
        case socksio.SOCKSError():
            return f"the proxy does not speak SOCKS5 ({error})"
    message = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split()))
    return message or type(error).__name__


async def _request(session: _Session, url: httpx.URL, file: Wanted) -> None:
    """One request. Raises `Refused`, `Interrupted` or httpx's errors; what came is kept."""
    partial = file.partial
    if file.bytes is not None and partial.held > file.bytes:
        partial.restart()
    held = partial.held
    headers = _range(partial, url, file.bytes)
    async with session.client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _check_whole(answer, file)
            return
        start, total = _check_answer(answer, file, held)
        if start == 0:
            partial.restart()
        asked = answer.request.headers.get("if-range") if start else None
        partial.set_source(shown(url), _validator(answer.headers) or asked)
        done = start
        with partial.path.open("ab") as out:
            async for chunk in answer.aiter_raw():
                if done + len(chunk) > (total or LARGEST):
                    raise Interrupted(f"more than {total or LARGEST:,} bytes came")
                out.write(chunk)
                out.flush()  # even `kill -9` loses nothing of what came
                done += len(chunk)
                session.progress.bytes_done(file.name, done, total)
    if total is not None and done != total:
        raise Interrupted(f"{done:,} of {total:,} bytes came")


def _range(partial: Partial, url: httpx.URL, wanted: int | None) -> dict[str, str]:
    """Headers that ask for the rest only, if the file is still the same."""
    held, sources, validator = partial.held, partial.sources, partial.validator
    if held and validator and sources[-1:] == [shown(url)]:
        return {"Range": f"bytes={held}-", "If-Range": validator}
    return {"Range": f"bytes={held}-"} if held and wanted is not None else {}


def _validator(headers: Mapping[str, str]) -> str | None:
    """The value for If-Range: a strong ETag, else the date of the last change."""
    tag = headers.get("etag", "")
    validator = tag if tag.startswith('"') else headers.get("last-modified")
    return validator if validator and validator.isascii() else None  # others cannot be sent back


def _is_same(headers: Mapping[str, str], validator: str | None) -> bool:
    """Whether an answer could be of the file with this validator."""
    name = "etag" if validator and validator.startswith('"') else "last-modified"
    return validator is None or headers.get(name, validator) == validator


def _check_answer(answer: httpx.Response, file: Wanted, held: int) -> tuple[int, int | None]:
    """Where the bytes of the answer begin, and the size of the whole file (None: unknown).

    Raises `Refused` or `Interrupted` for an answer that is no file; the partial stays then.
    """
    code, headers = answer.status_code, answer.headers
    if code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        status = f"status {code} {answer.reason_phrase}".strip()
        if is_final(code):
            raise Refused(status)
        raise Interrupted(status, _retry_after(headers))
    if headers.get("content-type", "").lower().startswith("text/html"):
        raise Interrupted("a web page came in place of the file, as from a login or a proxy")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Interrupted(f"came packed as {headers['content-encoding']}, which was not asked for")
    start, total = 0, None
    if code == HTTPStatus.PARTIAL_CONTENT:
        start, total = _content_range(headers)
        if start != held or not _is_same(headers, answer.request.headers.get("if-range")):
            file.partial.restart()
            raise Interrupted("another part came than was asked for")
    elif headers.get("content-length", "").isdecimal():
        total = int(headers["content-length"])
    elif file.bytes is None and "chunked" not in headers.get("transfer-encoding", ""):
        raise Interrupted("the server does not say how long the file is")
    if file.bytes is not None and total not in (None, file.bytes):
        raise Interrupted(f"the server has {total:,} bytes where the file has {file.bytes:,}")
    if file.bytes is None and (total or 0) > LARGEST:
        raise Interrupted(f"the server has {total:,} bytes, which cannot be the file")
    return start, file.bytes if total is None else total


def _content_range(headers: Mapping[str, str]) -> tuple[int, int | None]:
    """Where the part begins and the size of the whole, of `Content-Range: bytes 7-9/10`."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", "").strip())
    if found is None:
        raise Interrupted("a part came that does not say which")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _check_whole(answer: httpx.Response, file: Wanted) -> None:
    """Status 416: the whole file has come, or the partial is of another file and goes."""
    found = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("content-range", "").strip())
    held = file.partial.held
    if found and held == int(found[1]) and file.bytes in (None, held):
        return
    file.partial.restart()
    raise Interrupted("status 416: the file is shorter than what came before")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait for, as a number or as a date."""
    asked = headers.get("retry-after", "").strip()
    if asked.isdecimal():
        return float(asked)
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return 0.0
