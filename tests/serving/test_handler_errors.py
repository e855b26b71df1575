"""What goes wrong behind an endpoint: an error in OpenAI's form, and a server that goes on."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Annotated

import pytest
from fastapi import Depends, Response
from starlette.types import Receive, Scope, Send

from gpt2rt import Stopping
from gpt2rt.errors import BadText, InvalidSetting, MissingExtra, PromptTooLong
from gpt2rt.serving import guard
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.protocol import GuardedHttp
from gpt2rt.serving.service import Service, service_of
from gpt2rt.serving.settings import ServeSettings
from serving import RunningServer, fault, in_process, pass_time, running, wait_until


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (PromptTooLong("1,025 tokens, 1,024 fit"), (400, "context_length_exceeded")),
        (InvalidSetting("top_p must be 0 to 1"), (400, "invalid_value")),
        (BadText("half a surrogate pair: \ud800"), (400, "bad_text")),
        (MissingExtra("needs llguidance"), (400, "missing_extra")),
        (TimeoutError(), (503, "timeout")),
        (Fault(429, "come again", code="queue_full", retry_after=7), (429, "queue_full")),
    ],
)
def test_what_a_handler_raises(
    quick: ServeSettings, error: Exception, wanted: tuple[int, str]
) -> None:
    async def fails() -> None:
        raise error

    with in_process(quick) as client:
        client.app.app.add_api_route("/fails", fails)  # type: ignore[attr-defined]
        told = client.get("/fails")
        assert fault(told) == wanted
        if told.status_code in (429, 503):
            assert int(told.headers["retry-after"]) >= 1


def test_a_bug_is_logged_and_the_client_has_the_id(
    own: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug() -> None:
        raise ZeroDivisionError("of all things")

    own.app.add_api_route("/bug", bug)
    told = own.client().get("/bug")
    assert fault(told) == (500, "internal_error")
    assert told.headers["x-request-id"] in told.text
    assert "of all things" not in told.text
    wait_until(lambda: "ZeroDivisionError: of all things" in caplog.text)


def test_a_request_that_takes_too_long_is_ended(
    quick: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "GRACE", 0.0)
    ended = []

    async def endless() -> None:
        try:
            pass_time(asyncio.get_running_loop())
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with in_process(quick) as client:
        client.app.app.add_api_route("/endless", endless)  # type: ignore[attr-defined]
        assert fault(client.get("/endless")) == (503, "timeout")
    assert ended == [True]


def endless_stream(server: RunningServer) -> list[str]:
    """Add `/stream`, which sends without end; the list is told its begin and its end."""
    seen: list[str] = []

    class Endless(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200})
            seen.append("begin")
            try:
                while True:
                    await asyncio.sleep(0)
                    part = {"type": "http.response.body", "body": b"x" * 10_000}
                    await send({**part, "more_body": True})
            finally:
                seen.append("end")

    async def stream() -> Response:
        return Endless()

    server.app.add_api_route("/stream", stream, response_class=Response)
    return seen


def waits(connection: object) -> bool:
    """Whether the client of a connection does not take what it is sent."""
    assert isinstance(connection, GuardedHttp)
    return connection.flow.write_paused


def test_a_reader_that_does_not_read_is_cut_off(
    quick: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "GRACE", 0.0)
    with running(quick, "asyncio") as server:
        seen = endless_stream(server)
        connections = server.server.server_state.connections
        with server.socket(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            wait_until(lambda: any(waits(one) for one in list(connections)))
            with server.client() as other:
                assert other.get("/health").status_code == 200
            server.pass_time()
            wait_until(lambda: seen == ["begin", "end"])
            wait_until(lambda: not connections)
        wait_until(lambda: server.service.in_flight == 0)


# ---- the batch behind it


def test_a_full_queue_is_told_with_when_to_come_again(quick: ServeSettings) -> None:
    go = threading.Event()

    async def text(service: Annotated[Service, Depends(service_of)]) -> str:
        async with service.model(None) as model:
            return (await model.generate("a")).text

    async def endless(service: Annotated[Service, Depends(service_of)]) -> None:
        async with service.model(None) as model:
            forever = Stopping(length=10**9, end_of_text=False, overflow="slide")
            task = asyncio.create_task(model.generate("a", stopping=forever))
            await asyncio.to_thread(go.wait)
            task.cancel()

    with running(replace(quick, slots=1, queue=0)) as server:
        server.app.add_api_route("/text", text)
        server.app.add_api_route("/endless", endless)
        client = server.client()
        assert client.get("/text").status_code == 200
        hog = threading.Thread(target=lambda: server.client().get("/endless"))
        hog.start()
        counts = [model.model.batch for _, model in server.service.models.loaded()]
        wait_until(lambda: counts[0].statistics.running == 1)
        told = client.get("/text")
        assert fault(told) == (429, "queue_full")
        assert 1 <= int(told.headers["retry-after"]) <= 60
        assert 'gpt2rt_running{model="tiny-int8"} 1.0' in client.get("/metrics").text
        go.set()
        hog.join()
        wait_until(lambda: counts[0].statistics.running == 0)
        assert client.get("/text").status_code == 200


def test_a_model_whose_steps_fail_is_not_ready(serve_settings: ServeSettings) -> None:
    with in_process(replace(serve_settings, models=serve_settings.models[:1])) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        service = client.app.app.state.service  # type: ignore[attr-defined]
        for _, model in service.models.loaded():
            model.failed = 3
        assert fault(client.get("/ready")) == (503, "failing")
        assert client.get("/health").status_code == 200
