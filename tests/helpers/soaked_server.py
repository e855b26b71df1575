"""A server of two tiny models in a process, for thousands of requests."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPResponse
from pathlib import Path

import psutil

from command_line import start
from gpt2rt import GPT2
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import CHAT_TEMPLATE, MANIFEST
from models import REPEATABLE, TINY, LargerWeights, make_bundle
from served_request import ServedRequest
from serving import wait_until

SLOTS, QUEUE = 8, 4
OPTIONS = ("--threads", "1", "--prefix-cache", "2", "--log-prompts")
LIMIT = 300.0  # seconds that an answer may take
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ '<|endoftext|>' }}{% endfor %}"


@dataclass(frozen=True)
class SoakedServer:
    """`gpt2rt serve` of two tiny models in a process, and the library's own model beside it."""

    process: subprocess.Popen[bytes]
    port: int
    said: Path
    oracle: GPT2

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), LIMIT)

    def get(self, path: str) -> str:
        request = ServedRequest("get", "GET", path)
        with self.connect() as connection:
            connection.sendall(request.sent)
            status, body = whole(connection)
        assert status == 200, (path, status, body)
        return body.decode()

    def counts(self, name: str) -> dict[str, float]:
        """The values of a metric by its labels."""
        found = re.findall(rf"^gpt2rt_{name}(\{{.*\}})? (\S+)$", self.get("/metrics"), re.M)
        return {labels: float(value) for labels, value in found}

    @property
    def bytes(self) -> int:
        """Its resident memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def soaked_server(place: Path) -> Iterator[SoakedServer]:
    """The server, ready; `place` is a folder for its models."""
    precision = "int8" if "int8" in REPEATABLE else "fp32"
    bundle = make_bundle(place / "tiny", LargerWeights(TINY, 7), precision)
    models = (bundle.directory, _talker(bundle, place / "talker"))
    said = place / "stderr"
    limits = ("--slots", str(SLOTS), "--queue", str(QUEUE))
    with said.open("wb") as errors:
        process = start(
            *("serve", *map(str, models), "--port", "0", *OPTIONS, *limits),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        wait_until(lambda: " at http://" in said.read_text(), LIMIT)
        found = re.search(r" at http://\S+:(\d+);", said.read_text())
        assert found
        with GPT2.load(bundle.directory, threads=1) as oracle:
            server = SoakedServer(process, int(found[1]), said, oracle)
            wait_until(lambda: _is_ready(server), LIMIT)
            yield server
    finally:
        process.kill()
        process.wait()


def _talker(bundle: Bundle, place: Path) -> Path:
    """The same model under another name, with DialoGPT's template."""
    shutil.copytree(bundle.directory, place)
    path = place / CHAT_TEMPLATE
    path.write_text(TEMPLATE)
    files = {**bundle.manifest.files, CHAT_TEMPLATE: record(path)}
    manifest = replace(bundle.manifest, model="talker", files=files)
    (place / MANIFEST).write_text(manifest.to_json())
    return place


def _is_ready(server: SoakedServer) -> bool:
    try:
        return bool(server.get("/ready"))
    except (AssertionError, OSError):
        return False


def whole(connection: socket.socket, pause: float = 0.0) -> tuple[int, bytes]:
    """Status and body of an answer; with a pause after each few bytes."""
    answer = HTTPResponse(connection)
    answer.begin()
    body = bytearray()
    while part := answer.read(256 if pause else 1 << 20):
        body += part
        time.sleep(pause)
    return answer.status, bytes(body)
