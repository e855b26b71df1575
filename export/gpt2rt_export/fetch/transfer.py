"""Files over HTTP, several at once: each asked for at its locations in turn, and continued where it
broke off.

What came so far lies in a `Partial` beside the file's place. Whether the bytes are the right ones
is `integrity`'s question.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import random
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

import httpx2 as httpx
import socksio

from gpt2rt.errors import DownloadFailure, InvalidSetting
from gpt2rt_export.fetch.network import Network, shown
from gpt2rt_export.fetch.partial import Partial

LARGEST = 1 << 26  # bytes of a file whose size nobody says
PASSING = {408, 425, 429}  # of the 4xx: may go well the next time


class Report(Protocol):
    """Is told how a download goes on."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes (None: unknown) of a file."""

    def note(self, text: str) -> None:
        """Something that a person would want to know."""


class Silent:
    """Tells nobody."""

    def progress(self, what: str, done: int, total: int | None) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Interrupted(Exception):
    """An answer that is no file, or a part of one; another try may do better.

    `wait` are the seconds that the server asks for before that.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Refused(Exception):
    """An answer that will be the same the next time."""


@dataclass(slots=True, eq=False)
class Wanted:
    """A file on its way: its locations, its size where that is known, and how it goes.

    A location is a row of URLs: each of them is for the case that the one before knows of no such
    file. A file of known size is checked byte for byte later, so any location may continue it.
    """

    name: str
    partial: Partial
    locations: list[tuple[httpx.URL, ...]]
    bytes: int | None
    failures: int = 0  # in a row that brought nothing new
    most: int = 0  # bytes ever held
    reasons: dict[str, str] = field(default_factory=dict)  # by folder: why it failed last

    def failed(self) -> None:
        """Another try has ended; one that brought more than any before starts the count anew."""
        held = self.partial.held
        self.failures = 1 if held > self.most else self.failures + 1
        self.most = max(self.most, held)

    def spoilt(self, reason: str) -> None:
        """All bytes came and they are wrong: they go, and their locations are asked last."""
        bad = self.partial.sources
        self.most = max(self.most, self.partial.held)
        self.partial.restart()
        self.reasons.update((folder(source), reason) for source in bad)
        self.locations.sort(key=lambda urls: any(shown(url) in bad for url in urls))
        self.failures += 1

    def why(self) -> str:
        """Every folder that was asked, with its reason."""
        return "; ".join(f"{place}: {reason}" for place, reason in self.reasons.items())


def folder(shown: str) -> str:
    """Where the file of a URL lies."""
    return shown.rpartition("/")[0]


def fetch(files: Sequence[Wanted], network: Network, report: Report) -> list[Wanted]:
    """Fetch every file into its partial, `network.parallel` at once.

    Returns those that could not be had, once nothing is left to try; `in_vain` tells why.
    """
    try:
        fetched = asyncio.run(_fetch(files, network, report))
    except ExceptionGroup as group:  # the disk's error, once for each file under way
        raise group.exceptions[0] from None
    return [file for file, whole in zip(files, fetched, strict=True) if not whole]


def in_vain(files: Sequence[Wanted]) -> DownloadFailure:
    """The error that names every file and why it could not be had."""
    reasons: dict[str, list[str]] = {}  # most often they are the same for every file
    for file in files:
        reasons.setdefault(file.why(), []).append(file.name)
    told = [f"{', '.join(names)} cannot be fetched ({why})" for why, names in reasons.items()]
    return DownloadFailure(
        f"{'; '.join(told)}; check the network, name a --proxy or a --mirror, or put the files "
        f"into {files[0].partial.place.parent} by hand"
    )


@dataclass(frozen=True, slots=True)
class _Session:
    """What all transfers of a run share; `said` is what a person has been told already."""

    client: httpx.AsyncClient
    network: Network
    report: Report
    at_once: asyncio.Semaphore
    said: set[tuple[str, int]]


async def _fetch(files: Sequence[Wanted], network: Network, report: Report) -> list[bool]:
    at_once = asyncio.Semaphore(network.parallel)
    async with _client(network) as client, asyncio.TaskGroup() as group:
        session = _Session(client, network, report, at_once, set())
        tasks = [group.create_task(_persist(session, file)) for file in files]
    return [task.result() for task in tasks]


@functools.cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _client(network: Network) -> httpx.AsyncClient:
    timeout = httpx.Timeout(network.stall_timeout, connect=network.connect_timeout, pool=None)
    try:
        return httpx.AsyncClient(
            follow_redirects=True,
            timeout=timeout,
            proxy=network.proxy,
            verify=_certificates(),
            headers={"Accept-Encoding": "identity"},
            event_hooks={"request": [functools.partial(_check_redirect, network)]},
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidSetting(f"a proxy of the environment cannot be used ({error})") from None


async def _check_redirect(network: Network, request: httpx.Request) -> None:
    """Refuses what a server refers to where it could not have been named as a mirror."""
    if not network.may_ask(request.url):
        raise Refused(f"it refers to {shown(request.url)}, over http, which --allow-http allows")


async def _persist(session: _Session, file: Wanted) -> bool:
    """Try every location, again and again; returns whether that was not in vain."""
    network = session.network
    while file.bytes is None or file.partial.held != file.bytes:
        async with session.at_once:
            waits = []  # seconds that the locations ask for which may do better the next time
            for urls in list(file.locations):
                try:
                    await _ask(session, urls, file)
                    return True
                except Refused:
                    continue
                except Interrupted as error:
                    waits.append(error.wait)
        file.failed()
        if not waits or file.failures > network.retries:
            return False
        wait = min(network.backoff * 2 ** (file.failures - 1), network.longest_wait)
        wait = max(wait * random.uniform(0.5, 1), min(max(waits), network.longest_wait))
        if (file.why(), file.failures) not in session.said:
            session.said.add((file.why(), file.failures))
            session.report.note(f"{file.name}: {file.why()}; trying again in {wait:.1f} s")
        await asyncio.sleep(wait)
    return True


async def _ask(session: _Session, urls: Sequence[httpx.URL], file: Wanted) -> None:
    """Ask a location, under each name that it may have. Raises `Refused` or `Interrupted`."""
    for url in urls:
        place = folder(shown(url))
        try:
            await _attempt(session, url, file)
            return
        except Refused as error:
            file.reasons[place] = str(error)
        except Interrupted as error:
            file.reasons[place] = str(error)
            raise
        except (httpx.HTTPError, httpx.InvalidURL, socksio.SOCKSError) as error:
            file.reasons[place] = reason = _plain(error, session.network)
            raise Interrupted(reason) from None
    raise Refused


def _plain(error: Exception, network: Network) -> str:
    match error:
        case httpx.ConnectTimeout():
            return f"no connection within {network.connect_timeout:g} s"
        case httpx.ReadTimeout():
            return f"nothing came for {network.stall_timeout:g} s"
        case socksio.SOCKSError():
            return f"the proxy does not speak SOCKS5 ({error})"
    told = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split()))
    return told or type(error).__name__


async def _attempt(session: _Session, url: httpx.URL, file: Wanted) -> None:
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
        start, total = _accept(answer, file, held)
        if start == 0:
            partial.restart()
        asked = answer.request.headers.get("if-range") if start else None
        partial.belongs(shown(url), _validator(answer.headers) or asked)
        done = start
        with partial.path.open("ab") as out:
            async for chunk in answer.aiter_raw():  # as they come: what a cut leaves is kept
                if done + len(chunk) > (total or LARGEST):
                    raise Interrupted(f"more than {total or LARGEST:,} bytes came")
                out.write(chunk)
                done += len(chunk)
                session.report.progress(file.name, done, total)
    if total is not None and done != total:
        raise Interrupted(f"{done:,} of {total:,} bytes came")


def _range(partial: Partial, url: httpx.URL, wanted: int | None) -> dict[str, str]:
    """Headers that ask for the rest only, if the file is still the same."""
    held, sources, validator = partial.held, partial.sources, partial.validator
    if held and validator and sources[-1:] == [shown(url)]:
        return {"Range": f"bytes={held}-", "If-Range": validator}
    return {"Range": f"bytes={held}-"} if held and wanted is not None else {}


def _validator(headers: Mapping[str, str]) -> str | None:
    """What If-Range may say: a strong ETag, else the date."""
    tag = headers.get("etag", "")
    validator = tag if tag.startswith('"') else headers.get("last-modified")
    return validator if validator and validator.isascii() else None  # others cannot be sent back


def _is_same(headers: Mapping[str, str], validator: str | None) -> bool:
    """Whether an answer could be of the file with this validator."""
    name = "etag" if validator and validator.startswith('"') else "last-modified"
    return validator is None or headers.get(name, validator) == validator


def _accept(answer: httpx.Response, file: Wanted, held: int) -> tuple[int, int | None]:
    """Where the bytes of the answer begin, and the size of the whole file (None: not said).

    Nothing of the partial is touched before its answer has been found to be a file.
    """
    code, headers = answer.status_code, answer.headers
    if code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        told = f"status {code} {answer.reason_phrase}".strip()
        if 400 <= code < 500 and code not in PASSING:
            raise Refused(told)
        raise Interrupted(told, _retry_after(headers))
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
    """Start and size of the whole, of `Content-Range: bytes 7-9/10`."""
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
    told = headers.get("retry-after", "").strip()
    if told.isdecimal():
        return float(told)
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    return 0.0
