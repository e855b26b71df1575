"""Downloads through proxies, HTTP and SOCKS5, and what a bad one says."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from downloads import network, refusal, whole
from file_server import (
    Fault,
    FileServer,
    Parrot,
    Proxy,
    serving,
)
from gpt2rt.bundles.catalog import (
    DATA,
    MERGES,
    Release,
)
from gpt2rt.errors import InvalidSetting
from gpt2rt_export.fetch import transfer
from gpt2rt_export.fetch.download import download


def test_through_an_http_proxy(
    server: FileServer, http_proxy: Proxy, release: Release, place: Path
) -> None:
    download(release, place, network(server, proxy=http_proxy.url("http")))
    assert whole(place, server)
    assert f"GET {server.root}/124M/{DATA}" in http_proxy.targets


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_through_a_socks_proxy(
    server: FileServer, socks_proxy: Proxy, release: Release, place: Path, scheme: str
) -> None:
    download(release, place, network(server, proxy=socks_proxy.url(scheme)))
    assert whole(place, server)
    assert set(socks_proxy.targets) == {f"127.0.0.1:{server.server_address[1]}"}


def test_the_proxy_of_the_environment(
    server: FileServer,
    socks_proxy: Proxy,
    release: Release,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", socks_proxy.url("socks5"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    download(release, place, network(server))
    assert socks_proxy.targets == []
    (place / MERGES).unlink()
    monkeypatch.delenv("NO_PROXY")
    download(release, place, network(server))
    assert len(socks_proxy.targets) == 1
    monkeypatch.setenv("ALL_PROXY", "socks4://nonsense")
    (place / MERGES).unlink()
    with pytest.raises(InvalidSetting, match="a proxy of the environment cannot be used"):
        download(release, place, network(server))


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_an_encrypted_location_through_a_proxy(
    server: FileServer,
    http_proxy: Proxy,
    socks_proxy: Proxy,
    release: Release,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    import ssl

    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    root = server.root.replace("http:", "https:")
    proxy = {"http": http_proxy, "socks5": socks_proxy}[scheme]
    settings = network(root, proxy=proxy.url(scheme), retries=0)
    assert "certificate" in refusal(release, place, settings).lower()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    transfer.certificates.cache_clear()
    try:
        download(release, place, settings)
    finally:
        transfer.certificates.cache_clear()
    assert whole(place, server)
    target = f"127.0.0.1:{server.server_address[1]}"
    assert {found.removeprefix("CONNECT ") for found in proxy.targets} == {target}


HEAD = b"HTTP/1.1 "
NONSENSE = [
    b"",
    b"\x00" * 50,
    Random(7).randbytes(100),
    b"\x05",
    b"\x05\xff",
    b"\x05\x00\xff\xff\xff\xff\xff\xff",
    b"A" * 200_000,
    HEAD,
    HEAD + b"400 Bad\r\n\r\n",
    HEAD + b"999 \r\n\r\n",
    HEAD + b"100 Continue\r\n\r\n",
    HEAD + b"304 Not Modified\r\n\r\n",
    HEAD + b"302 Found\r\nLocation: http://[::1/\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"302 Found\r\nLocation: /models\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"206 Partial\r\nContent-Range: bytes 0-2/3\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"206 Partial\r\nContent-Range: bytes\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"206 Partial\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"416 None\r\nContent-Range: bytes */x\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"200 OK\r\nContent-Length: -5\r\n\r\nabc",
    HEAD + b"200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\nabc",
    HEAD + b"200 OK\r\nContent-Length: 68719476736\r\n\r\nabc",
    HEAD + b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"200 OK\r\n\r\nabc",
    HEAD + b'200 OK\r\nETag: "\xff"\r\nLast-Modified: \xe9\r\nContent-Length: 77\r\n\r\nabc',
    HEAD + b"503 X\r\nRetry-After: Wed, 21 Oct 9999 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"503 X\r\nRetry-After: " + b"9" * 400 + b"\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"503 X\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("says", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_from_a_server_or_a_proxy_is_one_clear_line(
    release: Release, place: Path, says: bytes
) -> None:
    parrot = Parrot(says)
    with serving(parrot):
        host = f"127.0.0.1:{parrot.server_address[1]}"
        for mirror, proxy in (
            (f"http://{host}/models", None),
            ("http://10.0.0.1/models", f"http://{host}"),
            ("https://10.0.0.1/models", f"http://{host}"),
            ("http://10.0.0.1/models", f"socks5://{host}"),
        ):
            settings = network(mirror, proxy=proxy, retries=1, allow_http=True)
            message = refusal(release, place, settings)
            assert f" cannot be fetched ({mirror}/124M: " in message
            assert not [path for path in place.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_is_none_is_named_as_the_reason(
    server: FileServer, release: Release, place: Path, scheme: str
) -> None:
    """A web server where a proxy was expected, and nothing at all."""
    server.always = {name: Fault("403") for name in server.files}
    for proxy in (
        server.root.removesuffix("/models").replace("http", scheme),
        f"{scheme}://127.0.0.1:9",
    ):
        settings = network(
            "http://10.0.0.1/models", proxy=proxy, retries=0, stall_timeout=0.3, allow_http=True
        )
        assert "cannot be fetched (http://10.0.0.1/models/124M: " in refusal(
            release, place, settings
        )
