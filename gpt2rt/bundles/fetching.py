"""Bundles from elsewhere: a packed file at a URL, fetched once into the home directory.

`fsspec` reads the URL: https://, s3://, gs://, file:// and others, each with the library that it
names. A file is fetched whole, every file in it compared with the manifest, and the bundle appears
by one rename. `#sha256=...` behind the URL pins the packed file, as pip has it.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from gpt2rt.bundles import files, storage
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.network_rules import ALLOW_HTTP, OFFLINE, is_final, is_set, is_this_machine
from gpt2rt.bundles.packing import SUFFIX, unpack
from gpt2rt.bundles.writing import check_space
from gpt2rt.errors import (
    BadBundle,
    DownloadFailure,
    Gpt2rtError,
    InvalidSetting,
    MissingExtra,
    missing_extra,
    reason,
)

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
PIN = re.compile(r"sha256=([0-9a-f]{64})")
LARGEST = 64 << 30  # bytes of a packed bundle
TRIES = 5
BACKOFF = 1.0  # seconds before the second try, doubled each time
CONNECT, STALL = 15.0, 30.0  # seconds without an answer, without a byte

Progress = Callable[[int, int | None], None]


def is_url(model: str) -> bool:
    """Whether `model` is a URL, rather than a name or a directory."""
    return URL.match(model) is not None


def shown(url: str) -> str:
    """A URL for messages: without user, password and query, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return ascii(urlunsplit((parts.scheme, host, parts.path, "", "")))[1:-1]


def fetched(
    url: str, digest: str | None = None, progress: Progress = lambda done, total: None
) -> Bundle:
    """The bundle of the packed file at `url`; fetched unless it was before.

    Other processes that want it meanwhile wait. A bundle that is here is taken as it is, unless
    its digest is not `digest`: then it is fetched again. `progress` is called with the bytes that
    have come and their number (None: unknown).

    Raises `DownloadFailure`, `BadBundle` for what is no packed bundle or another one than was
    asked for, `InvalidSetting` for a URL that may not be asked, `MissingExtra`.
    """
    pin = _check(url)
    place = storage.fetched_directory() / _name(url)
    if (held := _held(place, digest)) is not None:
        return held
    _check_extra(url)
    from filelock import FileLock

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock")):
            if (held := _held(place, digest)) is not None:
                return held
            if storage.claims(place):
                storage.Item(place.name, place).remove()
            return _fetch(url, pin, place, digest, progress)
    except OSError as error:
        raise DownloadFailure(f"{error.filename or place}: {reason(error)}") from None


def _held(place: Path, digest: str | None) -> Bundle | None:
    """The bundle at `place`, if it is there and the one that is wanted."""
    if not storage.claims(place):
        return None
    bundle = Bundle.open(place)
    return bundle if digest in (None, bundle.digest) else None


def _name(url: str) -> str:
    """What a fetched bundle is called: the name of the file, and a hash of the URL."""
    stem = Path(urlsplit(url).path).name.removesuffix(SUFFIX)
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", stem).lstrip(".")[:60]
    return f"{plain or 'bundle'}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _check(url: str) -> str | None:
    """The sha256 that the packed file must have; None: any. Raises `InvalidSetting`."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise InvalidSetting(f"{url!a:.120} is not the URL of a packed bundle") from None
    pin = PIN.fullmatch(parts.fragment)
    if parts.fragment and not pin:
        raise InvalidSetting(f"{shown(url)}: behind # can only be sha256= and 64 hex digits")
    if "::" in url or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise InvalidSetting(f"{shown(url)}: not the URL of one packed bundle")
    if parts.scheme == "http" and not (pin or is_set(ALLOW_HTTP) or is_this_machine(host or "")):
        raise InvalidSetting(
            f"{shown(url)}: over http anyone on the way can change what comes; use https, put "
            f"#sha256=... behind the URL, or allow it with {ALLOW_HTTP}=1"
        )
    return pin[1] if pin else None


def _check_extra(url: str) -> None:
    """Raises `MissingExtra`, and `DownloadFailure` where nothing may be fetched."""
    if is_set(OFFLINE):
        raise DownloadFailure(f"{shown(url)}: not fetched yet, and {OFFLINE} is set")
    missing = [name for name in ("fsspec", "filelock", "aiohttp") if find_spec(name) is None]
    if missing:
        raise missing_extra("urls", f"{shown(url)} needs {', '.join(missing)}")


def _fetch(
    url: str, pin: str | None, place: Path, digest: str | None, progress: Progress
) -> Bundle:
    """Fetch, check and unpack; the packed file is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.partial-", dir=place.parent) as aside:
        packed = Path(aside) / "packed"
        _download(url, packed, progress)
        found = None if pin is None else files.sha256(packed)
        if found != pin:
            raise BadBundle(f"{shown(url)}: sha256 {found:.12}…, not the {pin:.12}… of the URL")
        try:
            bundle = unpack(packed, Path(aside) / "bundle")
        except BadBundle as error:
            raise BadBundle(str(error).replace(str(packed), shown(url))) from None
        if digest not in (None, bundle.digest):
            raise BadBundle(
                f"{shown(url)}: a bundle with digest {bundle.digest:.12}…, not {digest:.12}…"
            )
        bundle.directory.rename(place)
    return Bundle.open(place)


def _download(url: str, file: Path, progress: Progress) -> None:
    """Put what is at a URL into `file`. Raises `DownloadFailure`, `MissingExtra`."""
    for trial in range(1, TRIES + 1):
        try:
            _get(url, file, progress)
            return
        except Gpt2rtError:
            raise
        except ImportError as error:
            raise MissingExtra(f"{shown(url)}: {error}") from None
        except Exception as error:  # each file system of fsspec has errors of its own
            if trial == TRIES or _is_hopeless(error):
                told = _told(error, url)
                raise DownloadFailure(f"{shown(url)} cannot be fetched: {told}") from None
            time.sleep(BACKOFF * 2 ** (trial - 1))


def _is_hopeless(error: Exception) -> bool:
    """Whether another try would not help."""
    if status := getattr(error, "status", 0):  # of an answer over HTTP
        return is_final(status)
    return isinstance(error, FileNotFoundError | PermissionError | ValueError)


def _told(error: Exception, url: str) -> str:
    """An error in a line; the address goes, whose query may hold secrets."""
    if status := getattr(error, "status", 0):
        return f"status {status} {getattr(error, 'message', '')!a:.60}"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, TimeoutError):
        return f"nothing came for {STALL:g} s"
    text = " ".join(reason(error).replace(url.partition("#")[0], shown(url)).split())
    return text[:300] or type(error).__name__


def _get(url: str, file: Path, progress: Progress) -> None:
    from fsspec.core import url_to_fs

    web = urlsplit(url).scheme in ("http", "https")
    system, path = url_to_fs(url.partition("#")[0], **(_web_settings(url) if web else {}))
    meter = _meter(url, file, progress)
    system.get_file(path, str(file), callback=meter)
    came = file.stat().st_size
    if meter.size not in (None, came):
        raise OSError(f"{came:,} of {meter.size:,} bytes came")


def _web_settings(url: str) -> dict[str, Any]:
    """What fsspec is told for HTTP: timeouts, proxies of the environment, where to be sent on."""
    import aiohttp

    pin = url.split("#")[1:]

    async def check(session: object, context: object, asked: Any) -> None:
        to = urljoin(url, asked.response.headers.get("Location", "")).partition("#")[0]
        _check("#".join([to, *pin]))

    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(check)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=STALL)
    settings = {"timeout": timeout, "trust_env": True, "trace_configs": [redirects]}
    return {"client_kwargs": settings, "skip_instance_cache": True, "encoded": url.isascii()}


def _meter(url: str, file: Path, progress: Progress) -> Any:
    """Tells `progress` what came, and stops what is too large or has no end."""
    from fsspec.callbacks import Callback

    class Meter(Callback):  # type: ignore[misc,unused-ignore]
        def set_size(self, size: int | None) -> None:
            self.size = size
            if (size or 0) > LARGEST:
                raise DownloadFailure(f"{shown(url)}: {size:,} bytes, which cannot be a bundle")
            remedy = "make room, or set GPT2RT_HOME to a place on another disk"
            check_space(file.parent, 2 * (size or 0), "the bundle", remedy, DownloadFailure)

        def relative_update(self, inc: int = 1) -> None:
            self.value += inc
            if self.value > LARGEST:
                raise DownloadFailure(f"{shown(url)}: more than {LARGEST:,} bytes came")
            progress(self.value, self.size)

    return Meter()
