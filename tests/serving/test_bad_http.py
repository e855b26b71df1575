"""Bodies and heads that are wrong, too large, too slow or without end are refused."""

from __future__ import annotations

import select
import socket

import pytest
from pydantic import BaseModel

from serving import RunningServer, fault, raw_fault, read_all, wait_until

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


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


def waited(server: RunningServer, sent: bytes) -> bytes:
    """What comes, however late, to a client that sends no more than this."""
    connection = server.socket(sent)
    while not select.select([connection], [], [], 0.05)[0]:
        server.pass_time()
    return read_all(connection)


@pytest.mark.parametrize("sent", [b"", b"Content-Length: 9\r\n\r\n{"])
def test_a_client_that_sends_half_a_request_is_told(own: RunningServer, sent: bytes) -> None:
    assert raw_fault(waited(own, HEAD + sent)) == (408, "too_slow")


def test_a_client_that_says_nothing_is_closed(own: RunningServer) -> None:
    assert waited(own, b"") == b""


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
    own.pass_time()  # clients of earlier tests keep theirs
    wait_until(lambda: not there)
    monkeypatch.setattr("gpt2rt.serving.protocol.MOST_CONNECTIONS", 2)
    with own.client() as first, own.client() as second:
        assert {first.get("/health").status_code, second.get("/health").status_code} == {200}
        assert raw_fault(read_all(own.socket())) == (503, "overloaded")
