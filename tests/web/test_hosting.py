"""The server of `gpt2rt web --serve`, beside readers who come and go."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import pytest

from file_server import serving
from gpt2rt_export.web.hosting import HOST, server

AT_ONCE = struct.pack("ii", 1, 0)  # a closed connection is reset


def test_nothing_is_said_of_a_reader_who_leaves_while_a_file_comes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 24))
    running, ended = server(tmp_path, 0), threading.Event()
    end = running.shutdown_request

    def ends(request: socket.socket) -> None:
        end(request)
        ended.set()

    monkeypatch.setattr(running, "shutdown_request", ends)
    with serving(running):
        reader = socket.create_connection((HOST, running.server_port))
        reader.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        assert reader.recv(1)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        reader.close()
        assert ended.wait(300)
    assert capfd.readouterr() == ("", "")


def test_other_errors_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    running = server(tmp_path, 0)
    try:
        raise ValueError("something else")
    except ValueError:
        running.handle_error(socket.socket(), (HOST, 1))
    finally:
        running.server_close()
    assert "something else" in capfd.readouterr().err
