"""How a server ends: running requests finish, new ones are told."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from command_line import Command, finish, posix
from gpt2rt import AsyncGPT2, Piece
from gpt2rt.cli.commands import serve
from gpt2rt.errors import InvalidSetting
from gpt2rt.serving import server
from gpt2rt.serving.service import Service
from gpt2rt.serving.settings import ServeSettings
from serving import LIMIT, RunningServer, fault, read_all, ready, running, url_in, wait_until

ASK = b"GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def settings(serve_settings: ServeSettings) -> ServeSettings:
    return replace(serve_settings, on_demand=True)


class Waiting:
    """Adds `/waits`, which answers when `go` is set."""

    def __init__(self, server: RunningServer) -> None:
        self.go = threading.Event()
        self.answers: list[httpx2.Response | Exception] = []
        self._server = server
        server.app.add_api_route("/waits", self._wait)
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        wait_until(lambda: server.service.in_flight == 1)

    def _wait(self) -> str:  # no coroutine: in a thread of its own
        self.go.wait(LIMIT)
        return "whole"

    def _ask(self) -> None:
        try:
            self.answers.append(self._server.client().get("/waits"))
        except httpx2.HTTPError as error:
            self.answers.append(error)

    def answer(self) -> httpx2.Response | Exception:
        self._thread.join(LIMIT)
        return self.answers[0]


def test_running_requests_finish_and_new_ones_are_told(settings: ServeSettings) -> None:
    with running(settings) as server:
        waiting = Waiting(server)
        with server.client() as earlier:  # a connection of before
            assert earlier.get("/ready").status_code == 200
            server.server.drain()
            for client in (earlier, server.client()):
                told = client.get("/v1/models")
                assert fault(told) == (503, "draining")
                assert told.headers["connection"] == "close"
                assert told.headers["retry-after"]
                assert fault(client.get("/ready")) == (503, "ending")
                assert client.get("/health").status_code == 200
        assert server.thread.is_alive()
        waiting.go.set()
        answer = waiting.answer()
        assert isinstance(answer, httpx2.Response)
        assert answer.json() == "whole"
        server.thread.join(LIMIT)
        assert not server.thread.is_alive()


def test_a_request_that_does_not_end_is_cut_at_the_limit(settings: ServeSettings) -> None:
    with running(replace(settings, drain=0.1)) as server:
        waiting = Waiting(server)
        server.server.drain()
        wait_until(lambda: server.server.should_exit)
        waiting.go.set()
        server.thread.join(LIMIT)
        assert not server.thread.is_alive()
        waiting.answer()


@pytest.mark.parametrize("stream", [False, True])
def test_whose_text_is_cut_at_the_limit_is_told(
    settings: ServeSettings, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def endless(
        self: AsyncGPT2, *given: object, **named: object
    ) -> AsyncIterator[list[Piece]]:
        yield [Piece(0, "x", 64)]
        await asyncio.sleep(60)

    monkeypatch.setattr(AsyncGPT2, "run", endless)
    monkeypatch.setattr("gpt2rt.serving.server.LAST", LIMIT)  # on a busy machine
    with running(replace(settings, drain=0.0)) as server, ThreadPoolExecutor() as threads:
        body = {"prompt": "ab", "stream": stream}
        asked = threads.submit(server.client().post, "/v1/completions", json=body)
        wait_until(lambda: server.service.metrics.text().find(b"first_token_seconds_count 1") > 0)
        server.server.drain()
        answer = asked.result(LIMIT)
    if stream:
        assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "timeout"
    else:
        assert fault(answer) == (503, "timeout")


# ---- as a process


# The command, which waits for a body as long as it takes.
PATIENT = """
from functools import partial
from gpt2rt.cli import main
from gpt2rt.serving import settings
settings.ServeSettings = partial(settings.ServeSettings, patience=1e6)
main()
"""


@pytest.fixture
def process(model: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", PATIENT, "serve", str(model), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        yield started
        started.kill()


@pytest.mark.slow
@posix
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_0(
    process: subprocess.Popen[bytes], which: signal.Signals
) -> None:
    url = url_in(process)
    wait_until(lambda: ready(url))
    process.send_signal(which)
    ended = finish(process)
    assert (ended.code, ended.err) == (0, "")
    assert {json.loads(line)["path"] for line in ended.out.splitlines()} == {"/ready"}


@pytest.mark.slow
@posix
def test_a_second_signal_ends_it_at_once(process: subprocess.Popen[bytes]) -> None:
    url = url_in(process)

    def told(path: str, text: str) -> Callable[[], bool]:
        return lambda: text in httpx2.get(f"{url}/{path}", timeout=LIMIT).text

    half = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), LIMIT)
    half.sendall(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
    half.sendall(b"Content-Length: 9\r\n\r\n")  # a request that runs on
    wait_until(told("metrics", "gpt2rt_requests_in_flight 2.0"))
    process.send_signal(signal.SIGTERM)
    wait_until(told("ready", '"ending"'))
    process.send_signal(signal.SIGTERM)
    assert b" 408 " not in read_all(half)  # it did not wait for the body
    assert finish(process).code == 0


# ---- the command line


@pytest.mark.parametrize(
    ("host", "keys", "open_to_all"),
    [("127.0.0.1", (), False), ("0.0.0.0", ("k",), False), ("0.0.0.0", (), True)],
)
def test_a_server_that_everybody_may_use_says_so(
    settings: ServeSettings,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    keys: tuple[str, ...],
    open_to_all: bool,
) -> None:
    monkeypatch.setattr(server.DrainingServer, "run", lambda self, sockets: None)
    told: list[str] = []
    settings = replace(settings, host=host, keys=keys, on_demand=False)
    server.serve(settings, tell=told.append)
    assert told[0] == "loading tiny-int8, tiny-fp32"
    assert ["--api-key-file" in line for line in told[1:]] == [True] * open_to_all


@pytest.mark.parametrize("on_demand", [False, True])
def test_readiness_is_told_once_models_are_loaded(settings: ServeSettings, on_demand: bool) -> None:
    told: list[list[bool]] = []

    def tell() -> None:
        told.append([served.model is not None for served in service.models.all()])

    async def started() -> None:
        service.start()
        while service.state == "loading":
            await asyncio.sleep(0.001)
        await service.close()

    service = Service(replace(settings, on_demand=on_demand), ready=tell)
    asyncio.run(started())
    assert told == [[not on_demand] * 2]


def test_keys_come_from_options_a_file_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("two\n\n three \n")
    monkeypatch.setenv("GPT2RT_API_KEY", "four")
    assert serve.keys(["one"], tmp_path / "keys") == ("one", "four", "two", "three")
    monkeypatch.setenv("GPT2RT_API_KEY", "")
    assert serve.keys([], None) == ()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6() -> None:
    try:
        listener = server.listen("::1", 0)
    except InvalidSetting:
        pytest.skip("no IPv6 here")
    with listener:
        assert re.fullmatch(r"http://\[::1\]:\d+", server.url_of(listener))


def test_an_address_in_use(command: Command, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = command("serve", model, "--port", taken.getsockname()[1])
    assert ended.code == 2
    assert "already in use" in ended.in_one_line()


@pytest.mark.parametrize("host", ["nowhere.invalid", "é" * 80, "a" * 300, "256.1.1.1"])
def test_an_address_that_is_none(command: Command, model: Path, host: str) -> None:
    ended = command("serve", model, "--port", "0", "--host", host)
    assert ended.code == 2
    assert "cannot listen" in ended.in_one_line()


def test_wrong_options_are_told_in_a_line(command: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for options in (
        ("--slots", "0"),
        ("--port", "70000"),
        ("--timeout", "nan"),
        ("--memory", "0"),
        ("--api-key", "a b"),
        ("--api-key-file", tmp_path / "empty"),
        ("--api-key-file", tmp_path / "binary"),
        ("--api-key-file", tmp_path / "none"),
    ):
        assert command("serve", model, *options).in_one_line()
    assert command("serve", "nosuch").in_one_line()


def test_the_extra_is_named(command: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2rt.cli.commands.serve.find_spec", lambda name: None)
    ended = command("serve", model)
    assert 'pip install "gpt2rt[serve]"' in ended.in_one_line()
    assert "fastapi" in ended.err
