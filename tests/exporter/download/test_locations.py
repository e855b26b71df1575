"""Where files are asked for: mirrors, their order, redirections and secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from downloads import NOWHERE, network, refusal, whole
from file_server import (
    Fault,
    FileServer,
    Proxy,
)
from gpt2rt.bundles import catalog
from gpt2rt.bundles.catalog import (
    DATA,
    Release,
)
from gpt2rt.errors import InvalidSetting
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.network import Network


def test_locations_are_tried_in_order_and_under_both_names(
    server: FileServer, second: FileServer, release: Release, place: Path
) -> None:
    server.folders, second.folders = {"nothing"}, {"117M"}
    download(release, place, network(NOWHERE, server, second))
    assert whole(place, second)
    assert [path for path, _ in server.asked if path.endswith(DATA)] == [
        f"/models/124M/{DATA}",
        f"/models/117M/{DATA}",
    ]


def test_secrets_of_a_url_are_used_and_never_told(
    server: FileServer, release: Release, place: Path
) -> None:
    root = server.root.replace("://", "://someone:password@") + "/?key=hidden-key"
    server.always[DATA] = Fault("500")
    message = refusal(release, place, network(root, retries=0))
    server.always[DATA] = Fault("cut")
    refusal(release, place, network(root, retries=0))
    kept = (place / f".{DATA}.partial.json").read_text()
    for text in (message, kept):
        assert "password" not in text
        assert "hidden-key" not in text
        assert server.root in text
    assert server.asked[-1][0].endswith("?key=hidden-key")


def test_the_known_locations_are_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT2RT_MIRRORS", raising=False)
    monkeypatch.delenv("GPT2RT_OFFLINE", raising=False)
    assert Network.chosen().mirrors == catalog.DOWNLOAD_ROOTS
    assert Network.chosen(["https://a/b"]).mirrors == ("https://a/b", *catalog.DOWNLOAD_ROOTS)
    monkeypatch.setenv("GPT2RT_MIRRORS", " https://c/d  https://e ")
    assert Network.chosen(["https://a/b"]).mirrors == ("https://a/b", "https://c/d", "https://e")
    for value, offline in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("GPT2RT_OFFLINE", value)
        assert Network.chosen().offline is offline


@pytest.mark.parametrize(
    "mirror", ["http://example.org/models", "http://10.0.0.1", "http://[::2]/"]
)
def test_another_machine_is_asked_over_http_only_where_the_user_says_so(
    mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSetting, match=r"over http anyone .* --allow-http"):
        Network(mirrors=(mirror,))
    assert Network(mirrors=(mirror,), allow_http=True).mirrors == (mirror,)
    Network(mirrors=("http://localhost:1/m", "http://127.0.0.1/m", "http://[::1]:8/m"))
    for value, allowed in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("GPT2RT_ALLOW_HTTP", value)
        assert Network.chosen().allow_http is allowed


def test_a_server_that_refers_to_one_over_http_is_not_followed(
    server: FileServer, http_proxy: Proxy, release: Release, place: Path
) -> None:
    """The proxy would hear of it: it stands for the other machine."""
    server.moved = "http://10.0.0.1/models"
    settings = network(server, proxy=http_proxy.url("http"), retries=0)
    assert "it refers to http://10.0.0.1/models/124M/" in refusal(release, place, settings)
    assert not [target for target in http_proxy.targets if "10.0.0.1" in target]


def test_a_server_that_refers_to_another_place_here_is_followed(
    server: FileServer, second: FileServer, release: Release, place: Path
) -> None:
    server.moved = second.root
    download(release, place, network(server))
    assert whole(place, second)


@pytest.mark.parametrize(
    "mirror", ["", "example", "ftp://a/b", "http://", "https:///x", "http://a b/", "http://[::1",
               "http://a:99999/", "file:///tmp", "127.0.0.1:80", "http://a:b/", "http:\n//a"]
)  # fmt: skip
def test_a_mirror_that_is_no_url(mirror: str) -> None:
    with pytest.raises(InvalidSetting, match="not the URL of a mirror; write it like https://"):
        Network(mirrors=(mirror,))


@pytest.mark.parametrize("proxy", ["127.0.0.1:1080", "socks4://a:1", "proxy", "http://", ""])
def test_a_proxy_that_is_no_url(proxy: str) -> None:
    with pytest.raises(
        InvalidSetting, match=r"not the URL of a proxy; .* socks5://127\.0\.0\.1:1080"
    ):
        Network(proxy=proxy)


@pytest.mark.parametrize(
    "settings",
    [{"retries": -1}, {"parallel": 0}, {"stall_timeout": 0}, {"backoff": -1}, {"mirrors": ()}],
)
def test_settings_that_mean_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        Network(**settings)
