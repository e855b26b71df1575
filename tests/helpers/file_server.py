"""A real HTTP server that misbehaves as told; and proxies, HTTP and SOCKS5."""

from __future__ import annotations

import select
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

LONGEST_STALL = 300.0  # seconds, should a client never give up
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@dataclass(frozen=True)
class Fault:
    """How one answer goes wrong; `part` of the body comes where only a part does."""

    kind: str
    part: float = 0.5


STATUSES = ("403", "404", "429", "500", "503")
KINDS = (
    *("cut", "cut", "cut", "cut", "stall", "short", "long", "404", "500", "503"),
    *("html", "page", "no-range", "hang-up", "damage", "other-part", "packed", "416"),
)


def random_faults(random: Random, most: int) -> list[Fault]:
    """Up to `most` faults, one an answer."""
    return [Fault(random.choice(KINDS), random.random()) for _ in range(random.randint(0, most))]


class FileServer(ThreadingHTTPServer):
    """Serves a directory's files under /models/<any folder>/, with ETags and ranges.

    Each answer takes the next of `faults`; those of `always` come with a file at each of its
    answers. `pause` seconds go by after every `step` bytes; none come while the `gate` is closed.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, directory: Path, tag: str = '"1"') -> None:
        super().__init__(("127.0.0.1", 0), ServedAnswer)
        self.files = {path.name: path.read_bytes() for path in directory.iterdir()}
        self.tag = tag
        self.faults: list[Fault] = []
        self.always: dict[str, Fault] = {}
        self.folders: set[str] | None = None  # None: any
        self.validates = True
        self.moved: str | None = None  # the root to which every answer refers
        self.pause, self.step = 0.0, 2048
        self.asked: list[tuple[str, str | None]] = []  # path and range
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/models"

    def asked_for(self, name: str) -> list[str | None]:
        """The ranges that were asked of a file, in order."""
        return [part for path, part in self.asked if path.endswith(f"/{name}")]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up


class ServedAnswer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked.append((self.path, self.headers.get("Range")))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._answer()
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self) -> None:
        server = self.server
        folder, name = self.path.split("?")[0].rsplit("/", 2)[1:]
        body = server.files.get(name)
        with server.lock:
            fault = server.always.get(name) or (server.faults.pop(0) if server.faults else None)
        kind = fault.kind if fault else ""
        if body is None or (server.folders is not None and folder not in server.folders):
            kind = "404"
        body = body or b""
        if server.moved is not None:
            self._send(302, b"", {"Location": f"{server.moved}/{folder}/{name}"})
            return
        if kind == "hang-up":
            self.close_connection = True
            return
        if kind in STATUSES:
            self._send(int(kind), b"no")
        elif kind == "416":
            self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        elif kind == "html":
            self._send(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        elif kind == "page":
            self._send(200, PAGE)
        elif kind == "packed":
            self._send(200, body, {"Content-Encoding": "gzip"})
        else:
            self._file(kind, body, fault.part if fault else 1.0)

    def _file(self, kind: str, body: bytes, part: float) -> None:
        start, ranged = 0, self.headers.get("Range", "")
        wanted = self.headers.get("If-Range")
        if ranged and wanted in (None, self.server.tag) and kind != "no-range":
            start = int(ranged.removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
        headers = {"Content-Type": "application/octet-stream"}
        if self.server.validates:
            headers["ETag"] = self.server.tag
        rest = body[start:]
        if kind == "damage" and rest and not self.path.endswith(".meta"):
            at = min(int(len(rest) * part), len(rest) - 1)
            rest = rest[:at] + bytes([rest[at] ^ 0x10]) + rest[at + 1 :]
        if start and kind == "other-part":
            start, rest = start - 1, body[start - 1 :]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        kept = int(len(rest) * part)
        promised = {"short": kept, "long": len(rest) + 1 + kept}.get(kind, len(rest))
        sent = rest[:kept] if kind in ("cut", "stall", "short") else rest
        self._send(206 if start else 200, sent, headers, promised)
        if kind == "stall":
            self._stall()
        if kind in ("cut", "stall", "long"):
            self.close_connection = True

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        promised: int = -1,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if promised < 0 else promised))
        self.end_headers()
        self.server.gate.wait(LONGEST_STALL)
        for at in range(0, len(body), self.server.step):
            self.wfile.write(body[at : at + self.server.step])
            time.sleep(self.server.pause)

    def _stall(self) -> None:
        """Say nothing more until the client gives up."""
        self.wfile.flush()
        until = time.monotonic() + LONGEST_STALL
        while time.monotonic() < until and not self.server.over.is_set():
            if select.select([self.connection], [], [], 0.02)[0]:
                return

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """The server answers while this lasts."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        if isinstance(server, FileServer):
            server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def same_files(directory: Path, server: FileServer) -> bool:
    """Whether every file that lies in place, all hidden ones left out, is the server's."""
    found = [path for path in directory.glob("*") if not path.name.startswith(".")]
    return all(path.read_bytes() == server.files[path.name] for path in found)


# ---- proxies


class Proxy(socketserver.ThreadingTCPServer):
    """Forwards what comes in, and remembers where to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.targets: list[str] = []

    def url(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up


class Parrot(socketserver.ThreadingTCPServer):
    """Whatever it is asked, it says the same and hangs up."""

    daemon_threads = True

    def __init__(self, says: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Says)
        self.says = says

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up


class Says(socketserver.BaseRequestHandler):
    server: Parrot
    request: socket.socket

    def handle(self) -> None:
        self.request.recv(1 << 12)
        self.request.sendall(self.server.says)


class HttpProxy(socketserver.StreamRequestHandler):
    """CONNECT, and plain requests with the whole URL, as RFC 9110 and 9112 have them."""

    server: Proxy

    def handle(self) -> None:
        method, target, version = self.rfile.readline().decode().split()
        headers = []
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            headers.append(line)
        self.server.targets.append(f"{method} {target}")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as upstream:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                tunnel(self.connection, upstream)
            return
        url = urlsplit(target)
        kept = [line for line in headers if not line.lower().startswith(b"connection")]
        head = f"{method} {url.path} {version}\r\n".encode() + b"".join(kept)
        with socket.create_connection((url.hostname or "", url.port or 80)) as upstream:
            upstream.sendall(head + b"Connection: close\r\n\r\n")
            tunnel(self.connection, upstream)


class SocksProxy(socketserver.BaseRequestHandler):
    """CONNECT without a password (RFC 1928)."""

    server: Proxy
    request: socket.socket

    def handle(self) -> None:
        _, methods = self._read(2)
        self._read(methods)
        self.request.sendall(b"\x05\x00")
        kind = self._read(4)[3]
        if kind == 1:
            host = socket.inet_ntoa(self._read(4))
        else:
            host = self._read(self._read(1)[0]).decode()
        (port,) = struct.unpack(">H", self._read(2))
        self.server.targets.append(f"{host}:{port}")
        with socket.create_connection((host, port)) as upstream:
            self.request.sendall(b"\x05\x00\x00\x01" + bytes(6))
            tunnel(self.request, upstream)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.request.recv(count - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data


def tunnel(one: socket.socket, other: socket.socket) -> None:
    """Bytes go both ways until one end closes."""
    ways = {one: other, other: one}
    with suppress(OSError):
        while True:
            for ready in select.select(list(ways), [], [], LONGEST_STALL)[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                ways[ready].sendall(data)
