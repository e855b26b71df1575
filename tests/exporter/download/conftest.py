"""A small release on servers of this machine, and proxies before them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from file_server import FileServer, HttpProxy, Proxy, SocksProxy, serving
from gpt2rt.bundles.catalog import Release


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Release]:
    from openai_files import write_release  # needs the extra `export`

    place = tmp_path_factory.mktemp("published") / "model"
    return place, write_release(place)


@pytest.fixture
def release(published: tuple[Path, Release]) -> Release:
    return published[1]


@pytest.fixture
def server(published: tuple[Path, Release]) -> Iterator[FileServer]:
    found = FileServer(published[0])
    with serving(found):
        yield found


@pytest.fixture
def second(published: tuple[Path, Release]) -> Iterator[FileServer]:
    found = FileServer(published[0], tag='"2"')
    with serving(found):
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "117M"


@pytest.fixture
def http_proxy() -> Iterator[Proxy]:
    proxy = Proxy(HttpProxy)
    with serving(proxy):
        yield proxy


@pytest.fixture
def socks_proxy() -> Iterator[Proxy]:
    proxy = Proxy(SocksProxy)
    with serving(proxy):
        yield proxy
