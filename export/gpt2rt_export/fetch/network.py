"""Settings of downloads: mirrors, proxy, retries and timeouts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2 as httpx

from gpt2rt.bundles.catalog import DOWNLOAD_ROOTS
from gpt2rt.bundles.network_rules import ALLOW_HTTP, OFFLINE, is_set, is_this_machine
from gpt2rt.errors import InvalidSetting

MIRRORS = "GPT2RT_MIRRORS"  # an environment variable
PROXIES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Network:
    """How files are fetched.

    `mirrors` are tried in order; each has a folder for each model, as OpenAI's location has. Other
    machines are asked over https only, also where a mirror redirects to them, unless `allow_http`.
    `proxy` None: as the environment says (HTTPS_PROXY, ALL_PROXY, NO_PROXY, ...). `retries` are
    tries in a row that bring no new bytes; between them are `backoff` seconds, doubled each time up
    to `longest_wait`, and shortened at random by up to half. `connect_timeout` and `stall_timeout`
    are seconds without an answer and without a byte; `parallel` files are fetched at once.

    Raises `InvalidSetting` for a text that is no URL and for numbers out of range.
    """

    mirrors: tuple[str, ...] = DOWNLOAD_ROOTS
    proxy: str | None = None
    offline: bool = False
    allow_http: bool = False
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 60.0
    connect_timeout: float = 15.0
    stall_timeout: float = 30.0
    parallel: int = 6

    def __post_init__(self) -> None:
        if not self.mirrors:
            raise InvalidSetting("no location to download from: name one with --mirror URL")
        for mirror in self.mirrors:
            _check_url(mirror, "a mirror", ("http", "https"), "https://example.org/gpt-2/models")
            if not (self.offline or self.may_ask(httpx.URL(mirror))):
                raise InvalidSetting(
                    f"{shown(httpx.URL(mirror))}: over http anyone on the way can change what "
                    f"comes; name an https mirror, or allow it with --allow-http or {ALLOW_HTTP}=1"
                )
        if self.proxy is not None:
            example = "http://127.0.0.1:3128 or socks5://127.0.0.1:1080"
            _check_url(self.proxy, "a proxy", PROXIES, example)
        for name, least in (("retries", 0), ("backoff", 0), ("longest_wait", 0), ("parallel", 1)):
            if getattr(self, name) < least:
                raise InvalidSetting(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("connect_timeout", "stall_timeout"):
            if getattr(self, name) <= 0:
                raise InvalidSetting(f"{name} must be more than 0, not {getattr(self, name)}")

    def may_ask(self, url: httpx.URL) -> bool:
        """Whether a URL may be fetched: https, this machine, or any with `allow_http`."""
        return self.allow_http or url.scheme == "https" or is_this_machine(url.host)

    @classmethod
    def chosen(
        cls,
        mirrors: Sequence[str] = (),
        proxy: str | None = None,
        offline: bool = False,
        allow_http: bool = False,
    ) -> Network:
        """The settings of the caller, completed by those of the environment.

        `$GPT2RT_MIRRORS`, URLs with spaces between them, replaces OpenAI's locations;
        `$GPT2RT_OFFLINE` other than empty or 0 means offline, `$GPT2RT_ALLOW_HTTP` likewise.
        """
        usual = tuple(os.environ.get(MIRRORS, "").split()) or DOWNLOAD_ROOTS
        return cls(
            mirrors=(*mirrors, *usual),
            proxy=proxy,
            offline=offline or is_set(OFFLINE),
            allow_http=allow_http or is_set(ALLOW_HTTP),
        )


def _check_url(text: str, what: str, schemes: Sequence[str], example: str) -> None:
    try:
        url = httpx.URL(text)
        port = url.port or 1
    except (httpx.InvalidURL, ValueError, TypeError):
        url, port = httpx.URL(""), 1
    whole = url.scheme in schemes and url.host and 0 < port < 1 << 16
    if not whole or re.search(r"\s", text):
        raise InvalidSetting(f"{text!r} is not the URL of {what}; write it like {example}")


def shown(url: httpx.URL) -> str:
    """A URL for messages and files: without user, password and query, which may hold secrets."""
    return str(url.copy_with(userinfo=b"", query=None))
