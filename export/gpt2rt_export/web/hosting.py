"""Serves a folder on this machine, with the headers by which a page may use threads."""

from __future__ import annotations

import functools
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gpt2rt.errors import Gpt2rtError, reason

HOST = "127.0.0.1"
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }
    headers_sent = ISOLATED

    def end_headers(self) -> None:
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what is asked for is the page's own."""


class _BareHandler(_Handler):
    headers_sent: dict[str, str] = {}  # noqa: RUF012


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a reader who closed the page while it was loading."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def server(directory: Path, port: int, *, isolated: bool = True) -> ThreadingHTTPServer:
    """A server of a folder's files at a port of this machine (0: any that is free).

    `isolated` False: without the headers, as most hosts. Raises `Gpt2rtError` for a port that
    cannot be had.
    """
    handler = functools.partial(
        _Handler if isolated else _BareHandler, directory=str(directory.absolute())
    )
    try:
        return _Server((HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise Gpt2rtError(f"port {port} of {HOST}: {reason(error)}; choose another") from None


def url(running: ThreadingHTTPServer) -> str:
    """The address of a server's folder."""
    return f"http://{HOST}:{running.server_port}/"
