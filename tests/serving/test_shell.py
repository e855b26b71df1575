"""The server around its endpoints: keys, limits, errors, and what it tells of itself."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Annotated

import pytest
from fastapi import Body, Depends, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from gpt2rt import Stopping
from gpt2rt.errors import BadText, InvalidSetting, MissingExtra, PromptTooLong
from gpt2rt.generation.batch_statistics import BatchStatistics
from gpt2rt.serving import guard
from gpt2rt.serving.access import AccessLog
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.metrics import OF_A_MODEL
from gpt2rt.serving.service import Service, service_of
from gpt2rt.serving.settings import ServeSettings
from serving import RunningServer, fault, in_process, raw_fault, read_all, running, wait_until

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def echo(body: Annotated[dict[str, int], Body()]) -> dict[str, int]:
    return body


@pytest.fixture(scope="module")
def quick(serve_settings: ServeSettings) -> ServeSettings:
    """Settings of a server that has no model in memory and little patience."""
    return replace(serve_settings, on_demand=True, patience=0.2, body_bytes=100_000)


@pytest.fixture(scope="module")
def own(quick: ServeSettings) -> Iterator[RunningServer]:
    """A server that knows `/echo`, a path that takes JSON."""
    with running(quick) as started:
        started.app.add_api_route("/echo", echo, methods=["POST"])
        yield started


# ---- what the server tells of itself


def test_health_readiness_and_models(server: RunningServer, client: TestClient) -> None:
    for asking in (server.client(), client):
        assert asking.get("/health").json() == {"status": "ok"}
        assert asking.get("/ready").json() == {"status": "ready"}
        listed = asking.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == ["tiny-int8", "tiny-fp32"]
        assert asking.get("/v1/models/tiny-fp32").json() == listed["data"][1]
        assert (
            listed["data"][0].items() >= {"object": "model", "context": 48, "loaded": True}.items()
        )


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_head_tells_what_an_answer_would(server: RunningServer, path: str) -> None:
    with server.client() as asking:
        head, whole = asking.head(path), asking.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]
        assert asking.get(path).status_code == 200  # on the same connection


def test_paths_are_prepared_before_the_first_request(server: RunningServer) -> None:
    assert server.app.openapi_schema is not None


def test_errors_are_in_openais_form(client: TestClient) -> None:
    missing = client.get("/v1/models/gpt-9")
    assert fault(missing) == (404, "model_not_found")
    assert "tiny-int8, tiny-fp32" in missing.text
    assert fault(client.get("/nowhere")) == (404, "no_such_path")
    assert fault(client.put("/health")) == (405, "wrong_method")
    assert client.put("/health").headers["allow"] == "GET"


def test_errors_are_described(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    for path in told["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            assert {"400", "401", "404", "408", "413", "415", "422", "429", "503"} <= set(answers)
            schema = answers["422"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorReply"}


def test_every_request_has_an_id_in_its_answer_and_in_the_log(server: RunningServer) -> None:
    ids = [server.client().get("/health").headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    wait_until(lambda: set(ids) <= {line["id"] for line in server.lines()})


def test_metrics_count_requests_by_declared_paths(serve_settings: ServeSettings) -> None:
    with in_process(replace(serve_settings, on_demand=True)) as client:
        client.get("/v1/models/tiny-int8")
        client.get("/v1/models/x")
        client.get("/chosen/by/the/client")
        told = client.get("/metrics").text
    assert 'gpt2rt_requests_total{path="/v1/models/{name}",status="200"} 1.0' in told
    assert 'gpt2rt_requests_total{path="/v1/models/{name}",status="404"} 1.0' in told
    assert 'gpt2rt_requests_total{path="other",status="404"} 1.0' in told
    assert "gpt2rt_requests_in_flight 1.0" in told


def test_every_count_of_a_batch_is_told() -> None:
    assert {field.name for field in fields(BatchStatistics)} < set(OF_A_MODEL)


def test_metrics_can_be_off(quick: ServeSettings) -> None:
    with in_process(replace(quick, metrics=False)) as client:
        assert client.get("/metrics").status_code == 404


# ---- keys and names


def test_a_key_opens_all_but_what_is_open(quick: ServeSettings) -> None:
    with in_process(replace(quick, keys=("one", "two"))) as client:
        for path in ("/health", "/ready"):
            assert client.get(path).status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            for shown in ("", "Bearer three", "Bearer", "Basic one", "one", "Bearer onetwo", "é"):
                told = client.get(path, headers={b"Authorization": shown.encode()})
                assert fault(told) == (401, "invalid_api_key")
                assert told.headers["www-authenticate"] == "Bearer"
        for key in ("one", "two"):
            told = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert told.status_code == 200
        assert fault(client.post("/health", json={}))[0] == 401


def test_the_log_names_a_key_without_telling_it(quick: ServeSettings) -> None:
    with running(replace(quick, keys=("secret",))) as server:
        server.client(headers={"Authorization": "Bearer secret"}).get("/v1/models")
        wait_until(lambda: bool(server.lines()))
        assert server.lines()[0]["client"].startswith("key-")
        assert "secret" not in server.log.getvalue()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST:1"])
def test_this_machine_has_these_names(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", "", "10.0.0.1"])
def test_a_page_of_another_site_cannot_lead_its_name_here(client: TestClient, host: str) -> None:
    assert fault(client.get("/health", headers={"Host": host})) == (400, "wrong_host")


def test_a_proxy_may_pass_on_its_name_where_keys_are_asked_for(quick: ServeSettings) -> None:
    with in_process(replace(quick, keys=("secret",))) as client:
        headers = {"Host": "gpt2.example.org", "Authorization": "Bearer secret"}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_server_for_others_is_asked_by_any_name(quick: ServeSettings) -> None:
    with in_process(replace(quick, host="0.0.0.0")) as client:
        assert client.get("/health", headers={"Host": "gpt2.example"}).status_code == 200


# ---- bodies


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"", (422, "missing")),
        (b"{", (400, "invalid_json")),
        (b"\xff", (400, "invalid_json")),
        (b"[" * 90_000, (400, "invalid_json")),
        (b"1" + b"0" * 9_000, (400, "invalid_json")),
        (b'{"a": "\\ud800"}', (422, "string_unicode")),
        (b'{"a": NaN}', (422, "finite_number")),
        (b'{"a": 1}', None),
    ],
)
def test_bodies(own: RunningServer, body: bytes, wanted: tuple[int, str] | None) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    told = own.client().post("/echo", content=body, headers=headers)
    if wanted is None:
        assert told.json() == {"a": 1}
    else:
        assert told.content.isascii()
        assert fault(told) == wanted


class Nested(BaseModel):
    prompt: str | list[int] | list[str]
    inner: dict[str, list[int]] = {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": 1.5}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": "a", "inner": {"x": [0, "b"]}}, "inner.x.1"),
        ({}, "prompt"),
        ([], None),
    ],
)
def test_the_wrong_field_is_named(own: RunningServer, body: object, param: str | None) -> None:
    async def nested(body: Nested) -> None:
        pass

    own.app.add_api_route("/nested", nested, methods=["POST"])
    told = own.client().post("/nested", json=body)
    assert told.status_code == 422
    assert told.json()["error"]["param"] == param


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
def test_what_a_web_page_may_post_without_asking_is_refused(own: RunningServer, kind: str) -> None:
    told = own.client().post("/echo", content=b'{"a": 1}', headers={"Content-Type": kind})
    assert fault(told) == (415, "not_json")


def test_a_large_body_is_refused_before_it_is_sent(own: RunningServer) -> None:
    connection = own.socket(HEAD + b"Content-Length: 104857600\r\n\r\n")
    assert raw_fault(read_all(connection)) == (413, "body_too_large")


def test_a_client_that_asks_first_sends_no_large_body(own: RunningServer) -> None:
    asked = HEAD + b"Expect: 100-continue\r\nContent-Length: 104857600\r\n\r\n"
    answer = read_all(own.socket(asked))
    assert b"100 Continue" not in answer
    assert raw_fault(answer) == (413, "body_too_large")


def test_a_body_of_no_told_length_is_read_up_to_the_limit(own: RunningServer) -> None:
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    connection = own.socket(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + 11 * chunk)
    assert raw_fault(read_all(connection)) == (413, "body_too_large")


def cut_off(connection: socket.socket, server: RunningServer) -> bool:
    """Whether a client that sends without end is cut off, and others are not."""
    try:
        with connection:
            for _ in range(1000):
                connection.sendall(b"a" * 10_000)
    except OSError:
        return server.client().get("/health").status_code == 200
    return False


def test_trailing_fields_without_end_are_refused(own: RunningServer) -> None:
    connection = own.socket(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ")
    assert cut_off(connection, own)


@pytest.mark.parametrize("sent", [b"", b"Content-Length: 9\r\n\r\n{"])
def test_a_client_that_sends_half_a_request_is_told(own: RunningServer, sent: bytes) -> None:
    assert raw_fault(read_all(own.socket(HEAD + sent))) == (408, "too_slow")


def test_a_client_that_says_nothing_is_closed(own: RunningServer) -> None:
    assert read_all(own.socket()) == b""


def test_a_client_that_leaves_within_its_body_is_forgotten(own: RunningServer) -> None:
    own.socket(HEAD + b"Content-Length: 9\r\n\r\n{").close()
    wait_until(lambda: 499 in [line["status"] for line in own.lines()])
    wait_until(lambda: own.service.in_flight == 0)


# ---- heads


def test_heads_of_many_fields_or_bytes_are_refused(own: RunningServer) -> None:
    fields = b"".join(b"X-%d: 1\r\n" % i for i in range(101))
    for head in (fields, b"X: " + b"a" * 33_000, b"X: " + b"a" * 33_000 + b"\r\n"):
        assert raw_fault(read_all(own.socket(HEAD + head + b"\r\n"))) == (431, "head_too_large")
    assert own.client().get("/health").status_code == 200


def test_a_head_without_end_is_cut_off(own: RunningServer) -> None:
    assert cut_off(own.socket(HEAD + b"X: "), own)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",  # TLS
        b"GET / HTTP/9\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        "GET /é HTTP/1.1\r\n\r\n".encode(),
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_no_http(own: RunningServer, sent: bytes) -> None:
    assert raw_fault(read_all(own.socket(sent))) == (400, "invalid_http")


def test_a_connection_serves_many_requests(own: RunningServer) -> None:
    """However long it rests in between, and however many come at once."""
    with own.client() as client:
        for _ in range(3):
            assert client.get("/health").status_code == 200
            wait_until(lambda: own.service.in_flight == 0)
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert read_all(own.socket(40 * one + last)).count(b"200 OK") == 41


def test_too_many_connections_are_told(own: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    there = own.server.server_state.connections
    wait_until(lambda: not there)
    monkeypatch.setattr("gpt2rt.serving.protocol.MOST_CONNECTIONS", 2)
    with own.client() as first, own.client() as second:
        assert {first.get("/health").status_code, second.get("/health").status_code} == {200}
        assert raw_fault(read_all(own.socket())) == (503, "overloaded")


# ---- errors of handlers


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
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with in_process(replace(quick, timeout=0.02)) as client:
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


def test_a_reader_that_does_not_read_is_cut_off(
    quick: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "GRACE", 0.0)
    with running(replace(quick, timeout=0.5)) as server:
        seen = endless_stream(server)
        with server.socket(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            wait_until(lambda: bool(seen))
            with server.client() as other:
                assert other.get("/health").status_code == 200
            wait_until(lambda: seen == ["begin", "end"])
            wait_until(lambda: not server.server.server_state.connections)
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


# ---- the access log


def test_the_log_has_what_clients_send_only_when_asked(quick: ServeSettings) -> None:
    async def noting(request: Request, body: Annotated[dict[str, int], Body()]) -> None:
        request.state.notes["model"] = "m"

    for prompts in (False, True):
        with running(replace(quick, log_prompts=prompts)) as server:
            server.app.add_api_route("/noting", noting, methods=["POST"])
            server.client().post("/noting", json={"a": 1, "né": 2})
            wait_until(lambda: bool(server.lines()))
            (line,) = server.lines()
            assert server.log.getvalue().isascii()
        assert line.items() >= {"method": "POST", "path": "/noting", "status": 200}.items()
        assert line["model"] == "m"
        assert line.get("body") == ('{"a":1,"né":2}' if prompts else None)


def test_a_log_that_nobody_reads_loses_lines_and_counts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpt2rt.serving.access.LINES", 2)
    stuck = Stuck()
    log = AccessLog(stuck)
    for number in range(9):
        log.add({"n": number})
    stuck.reading.set()
    wait_until(lambda: '{"n": 1}' in stuck.getvalue())
    log.add({"n": 9})
    log.close()
    assert '{"n": 9, "lost_lines": ' in stuck.getvalue()


class Stuck(io.StringIO):
    """A stream that takes nothing until `reading` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()

    def write(self, text: str) -> int:
        self.reading.wait()
        return super().write(text)


def test_a_log_that_breaks_does_not_end_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    stream.close()
    log = AccessLog(stream)
    log.add({"n": 1})
    log.close()
    log.add({"n": 2})
    assert "the access log ends" in capsys.readouterr().err


# ---- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"port": -1},
        {"slots": 0},
        {"queue": -1},
        {"timeout": float("nan")},
        {"timeout": -1.0},
        {"drain": float("inf")},
        {"memory": 0},
        {"keys": ("",)},
        {"keys": ("a b",)},
        {"keys": ("é",)},
        {"body_bytes": 0},
        {"host": 1},
    ],
)
def test_settings_that_mean_nothing(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        ServeSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.9.1", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("gpt2.example", False)],
)  # fmt: skip
def test_who_can_reach_the_server(host: str, loopback: bool) -> None:
    assert ServeSettings(host=host).loopback == loopback
