"""Streams of events: errors that come late, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gpt2rt import Piece
from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.errors import BadLogits
from gpt2rt.serving.events import ClientLeft, while_there
from gpt2rt.serving.settings import ServeSettings
from held_steps import HeldSteps
from serving import RunningServer, fault, in_process, pass_time, running, wait_until

BODY = {"prompt": "ab", "stream": True}


def text_of(events: bytes) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in events.decode().split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def patch(monkeypatch: pytest.MonkeyPatch, error: Exception, after: int) -> None:
    """Let every run fail after so many steps."""

    async def run(self: AsyncGPT2, *given: Any, **named: Any) -> AsyncGenerator[list[Piece], None]:
        for _ in range(after):
            yield [Piece(0, "x", 64)]
        raise error

    monkeypatch.setattr(AsyncGPT2, "run", run)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_step_has_its_status(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    patch(monkeypatch, BadLogits("not finite"), after=0)
    answer = client.post("/v1/completions", json={**BODY, "stream": stream})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_failed"


@pytest.mark.parametrize(
    ("error", "code"), [(BadLogits("x"), "model_failed"), (KeyError("x"), "internal_error")]
)
def test_an_error_after_it_is_the_last_event(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    patch(monkeypatch, error, after=2)
    answer = client.post("/v1/completions", json=BODY)
    assert answer.status_code == 200
    *texts, last = text_of(answer.content)
    assert [part["choices"][0]["text"] for part in texts] == ["x", "x"]
    assert last["error"]["code"] == code


@contextmanager
def endless(monkeypatch: pytest.MonkeyPatch, *, long: bool = False) -> Iterator[list[str]]:
    """Runs that never end; the list says what became of them. `long`: that takes an hour."""
    seen: list[str] = []

    async def run(self: AsyncGPT2, *given: Any, **named: Any) -> AsyncGenerator[list[Piece], None]:
        seen.append("begun")
        try:
            while True:
                yield [Piece(0, "x", 64)]
                if long:
                    pass_time(asyncio.get_running_loop())
                await asyncio.sleep(0.001)
        finally:
            seen.append("closed")

    with monkeypatch.context() as patch:
        patch.setattr(AsyncGPT2, "run", run)
        yield seen


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", ["close", "half"])
def test_the_work_ends_when_its_client_leaves(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, stream: bool, way: str
) -> None:
    body = json.dumps({**BODY, "stream": stream}).encode()
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with endless(monkeypatch) as seen:
        connection = server.socket(head + body)
        wait_until(lambda: bool(seen))
        connection.close() if way == "close" else connection.shutdown(1)
        wait_until(lambda: seen == ["begun", "closed"])
        connection.close()
        wait_until(lambda: server.service.in_flight == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_tells_the_tokens_of_a_client_that_left(
    serve_settings: ServeSettings, steps: HeldSteps, stream: bool
) -> None:
    body = json.dumps({"prompt": "ab", "min_tokens": 40, "max_tokens": 40, "stream": stream})
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with running(serve_settings) as server:
        steps.allow(5)
        connection = server.socket(head + body.encode())
        steps.made()
        assert server.client().get("/health").status_code == 200  # it has seen the tokens, too
        connection.close()
        wait_until(lambda: len(server.lines()) == 2)
        line = server.lines()[-1]
        steps.allow()
    assert line["path"] == "/v1/completions"
    assert (line["status"], line["prompt_tokens"]) == (200 if stream else 499, None)
    assert line["completion_tokens"] == 5


def test_work_is_cancelled_when_the_client_leaves() -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        async def receive() -> Any:
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        with pytest.raises(ClientLeft):
            await while_there(receive, work())
        assert ended.is_set()

    asyncio.run(main())


def test_work_that_ends_first_counts() -> None:
    async def main() -> None:
        async def work() -> int:
            return 5

        async def receive() -> Any:
            await asyncio.sleep(60)

        assert await while_there(receive, work()) == 5

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_told(
    serve_settings: ServeSettings, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("gpt2rt.serving.guard.GRACE", 1e6)
    with in_process(serve_settings) as client, endless(monkeypatch, long=True) as seen:
        wait_until(lambda: client.get("/ready").status_code == 200)
        answer = client.post("/v1/completions", json={**BODY, "stream": stream})
        assert seen == ["begun", "closed"]
    if stream:
        assert text_of(answer.content)[-1]["error"]["code"] == "timeout"
    else:
        assert fault(answer) == (503, "timeout")
        assert int(answer.headers["retry-after"]) >= 1
