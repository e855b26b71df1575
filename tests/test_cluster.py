"""Addresses of clusters: what is none, and where none answers, is told in a line and at once."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpt2rt import cluster
from gpt2rt.cli.input.ray_option import with_address
from gpt2rt.errors import InvalidSetting, MissingExtra


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The address of something that answers the first connection so, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def join(address: str) -> str:
    """Why a cluster cannot be joined."""
    with pytest.raises(InvalidSetting) as raised, cluster.joined(address):
        pass
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    "address", ["", "head", "head:", ":6379", "head:0", "head:70000", "ray://head:10001", "a b:1"]
)
def test_what_is_no_address(address: str) -> None:
    pytest.importorskip("ray")
    assert "HOST:PORT" in join(address)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0"])
def test_where_something_else_answers(answer: bytes) -> None:
    pytest.importorskip("ray")
    with answering(answer) as address:
        assert address in join(address)


def test_where_nothing_answers() -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:  # so nobody else listens there
        taken.bind(("127.0.0.1", 0))
        assert "no cluster" in join(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "no cluster" in join("nowhere.invalid:6379")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"gpt2rt\[ray\]"), cluster.joined(cluster.LOCAL):
        pass


def test_nothing_of_ray_is_imported_without_it() -> None:
    code = (
        "import sys\n"
        "import gpt2rt.cli.commands.generate, gpt2rt.cli.commands.serve\n"
        "import gpt2rt.serving.replicas, gpt2rt.cluster\n"
        "assert not {name for name in sys.modules if name.split('.')[0] == 'ray'}"
    )
    pytest.importorskip("fastapi")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["serve", "--ray"], ["serve", "--ray=local"]),
        (["serve", "--ray", "117M"], ["serve", "--ray=local", "117M"]),
        (["serve", "--ray", "--port", "1"], ["serve", "--ray=local", "--port", "1"]),
        (["serve", "--ray", "head-1.example:6379", "117M"], None),
        (["serve", "--ray", "[::1]:6379"], None),
        (["serve", "--ray=10.0.0.1:6379"], None),
        (["generate", "--", "--ray"], None),
    ],
)
def test_an_address_may_be_left_out(typed: list[str], meant: list[str] | None) -> None:
    assert with_address(typed) == (meant or typed)
