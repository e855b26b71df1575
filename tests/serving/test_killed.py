"""A server that is killed (`kill -9`) while it streams starts again; no file is harmed."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import httpx2
import pytest

from command_line import posix, start
from gpt2rt import GPT2, SamplingParams, Stopping
from serving import LIMIT, free_port, ready, url_in, wait_until

CLIENTS = 4
BODY = {"prompt": "ab", "n": 2, "seed": 5, "max_tokens": 40}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class StreamReader:
    """Streams texts from a server, one after another, until it is gone."""

    def __init__(self, url: str) -> None:
        self.parts = 0
        self.wrong: list[object] = []
        self._url = url
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        body = {**BODY, "stream": True}
        try:
            with httpx2.Client(timeout=LIMIT) as client:
                while True:
                    with client.stream("POST", f"{self._url}/v1/completions", json=body) as answer:
                        if answer.status_code != 200:
                            self.wrong.append(answer.status_code)
                        for _ in answer.iter_raw():
                            self.parts += 1
        except httpx2.TransportError:
            pass  # it was killed


@pytest.mark.slow
@posix
def test_a_server_killed_under_load_starts_again(model: Path, home: Path, gpt2: GPT2) -> None:
    before, port = files(model), free_port()
    wanted = gpt2.generate_batch(["ab", "ab"], SamplingParams(seed=5), Stopping(40))
    for _ in range(2):
        server = start("serve", model, "--port", port, "--threads", "1", stdout=subprocess.DEVNULL)
        try:
            url = url_in(server)
            wait_until(lambda url=url: ready(url))  # type: ignore[misc]
            answer = httpx2.post(f"{url}/v1/completions", json=BODY, timeout=LIMIT).json()
            assert [one["text"] for one in answer["choices"]] == [one.text for one in wanted]
            readers = [StreamReader(url) for _ in range(CLIENTS)]
            wait_until(lambda all=readers: min(one.parts for one in all) > 5)  # type: ignore[misc]
        finally:
            server.kill()
            server.communicate()
        for reader in readers:
            reader.thread.join(LIMIT)
            assert not reader.thread.is_alive()
            assert reader.wrong == []
        assert files(model) == before
        assert not [name for name in files(home) if name.endswith((".new", ".tmp", ".lock"))]
