"""Where files are fetched from, by which way, and how patiently."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx2 as httpx

from gpt2rt.bundles.catalog import DOWNLOAD_ROOTS
from gpt2rt.errors import InvalidSetting

# Of the environment.
MIRRORS, OFFLINE, ALLOW_HTTP = "GPT2RT_MIRRORS", "GPT2RT_OFFLINE", "GPT2RT_ALLOW_HTTP"
PROXIES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Network:
    """How files are fetched. Raises `InvalidSetting` for what is no URL and for odd numbers.

    `mirrors` are tried in order; each holds a folder a model, as OpenAI's location does. Another
    machine is asked over https only, also where a mirror refers to it, unless `allow_http`. `proxy`
    None leaves it to the environment (HTTPS_PROXY, ALL_PROXY, NO_PROXY, ...). `retries` are
    attempts in a row that bring nothing new; between them lie `backoff` seconds, doubled each time
    up to `longest_wait`, and shortened at random by up to half. `connect_timeout` and
    `stall_timeout` are seconds without an answer and without a byte; `parallel` files come at once.
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
        """Whether what comes from there is what its server sent, or the user does not mind."""
        return self.allow_http or url.scheme == "https" or _is_here(url.host)

    @classmethod
    def chosen(
        cls,
        mirrors: Sequence[str] = (),
        proxy: str | None = None,
        offline: bool = False,
        allow_http: bool = False,
    ) -> Network:
        """What the caller asks for, before what the environment says.

        `$GPT2RT_MIRRORS`, URLs with spaces between them, stands for OpenAI's locations;
        `$GPT2RT_OFFLINE` other than empty or 0 means offline, `$GPT2RT_ALLOW_HTTP` likewise.
        """
        usual = tuple(os.environ.get(MIRRORS, "").split()) or DOWNLOAD_ROOTS
        return cls(
            mirrors=(*mirrors, *usual),
            proxy=proxy,
            offline=offline or _is_set(OFFLINE),
            allow_http=allow_http or _is_set(ALLOW_HTTP),
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def _is_here(host: str) -> bool:
    """Whether it is this machine: what is sent to it passes nobody."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


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
    """A URL for messages and files: without name, password and the secrets of a query."""
    return str(url.copy_with(userinfo=b"", query=None))
