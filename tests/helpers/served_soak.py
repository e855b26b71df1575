"""A server under thousands of random requests: right and wrong ones, slow readers, who leave early.

`soak` holds the laws: every answer is a documented one, every text that ends is the library's, and
at the end the server has all its slots, little more memory than before, and no error in its log.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import schemathesis
from schemathesis import GenerationMode

import health_watch
from gpt2rt.errors import Gpt2rtError
from served_request import BUSY, REFUSED, ServedRequest
from served_requests import FIRST, random_request
from serving import wait_until
from soaked_server import LIMIT, SLOTS, SoakedServer, soaked_server, whole

CLIENTS = 16
WARM = 1000  # requests after which memory should hardly grow
MOST_GROWTH = 20e6  # bytes
# How an answer is read: whole; a few bytes at a time; half of it, before the client closes its
# connection, or resets it; not at all; or the request is sent by halves, and the rest never.
MANNERS = {"whole": 10, "slow": 2, "closes": 2, "resets": 1, "ignores": 1, "half": 1}


@dataclass
class SoakFigures:
    """What happened: requests by kind, manner and status, and the measures of the server.

    `checked` counts the answers with status 200 that were compared with the library's, `made_up`
    the requests of schemathesis. `growth` are the bytes of memory since the first thousand
    requests, `health` is what `health_watch` found.
    """

    seed: int
    kinds: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    made_up: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    growth: float = 0.0
    health: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(vars(self))


def soak(
    place: Path,
    count: int,
    seed: int,
    health: float,
    examples: int = 0,
    tell: Callable[[int], None] = lambda done: None,
) -> SoakFigures:
    """Send `count` random requests, by `CLIENTS` at a time, and check everything.

    Beside them come right and wrong ones that schemathesis makes up, `examples` of either for each
    endpoint. `health`: the seconds in which /health has to answer, always; `tell` is called with
    the number of requests done. Raises `AssertionError`.
    """
    figures = SoakFigures(seed)
    with soaked_server(place) as server, watched_health(server, figures):
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS + 1) as clients:
            made_up = clients.submit(make_up, server, examples, seed)
            trials = clients.map(partial(tried, server, seed), range(count))
            for done, found in enumerate(trials, 1):
                found.add_to(figures, done - 1)
                tell(done)
                if done == min(WARM, count // 2):
                    before = server.bytes
            figures.made_up = made_up.result()
        check_idle(server)
        figures.growth = server.bytes - before
        figures.seconds = round(time.monotonic() - began, 1)
        check_slots(server)
        check_log(server)
    assert not figures.failed, figures.failed
    assert figures.growth < MOST_GROWTH, figures
    assert figures.health["longest"] < health, figures.health
    return figures


@contextmanager
def watched_health(server: SoakedServer, figures: SoakFigures) -> Iterator[None]:
    """Ask for /health all the while, and note how long answers took."""
    place = str(server.port), str(server.process.pid)
    command = [sys.executable, health_watch.__file__, *place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as watch:
        try:
            yield
        finally:
            out, _ = watch.communicate()
        assert watch.returncode == 0, "a question for /health failed"
        figures.health = json.loads(out)


# ---- a request


@dataclass(frozen=True)
class Tried:
    """What a request was and how it went; `status` 0: there was no answer."""

    kind: str
    manner: str
    status: int
    code: str
    failure: str

    def add_to(self, figures: SoakFigures, number: int) -> None:
        figures.kinds[self.kind] += 1
        figures.manners[self.manner] += 1
        figures.statuses[f"{self.status or 'no answer'} {self.code}".strip()] += 1
        figures.checked += self.status == 200
        if self.failure:
            figures.failed[number] = f"{self.kind}, {self.manner}: {self.failure}"[:600]


def tried(server: SoakedServer, seed: int, number: int) -> Tried:
    """Send request `number` of a seed, in its own manner, and judge the answer."""
    random = Random(f"serving {seed} {number}")
    request = random_request(random, server.oracle)
    (manner,) = random.choices(list(MANNERS), list(MANNERS.values()))
    status, code, failure = 0, "", ""
    try:
        with server.connect() as connection:
            status, body = exchanged(connection, request, manner, random)
        code = code_of(status, body)
        if manner in ("whole", "slow"):
            check_answer(request, status, body)
    except AssertionError as error:
        failure = f"status {status}: {error}"
    except (OSError, HTTPException) as error:
        # Who sends too much is cut off; who is answered in full is not.
        if request.check is not None and manner in ("whole", "slow"):
            failure = f"{type(error).__name__}: {error}"
    return Tried(request.kind, manner, status, code, failure)


def exchanged(
    connection: socket.socket, request: ServedRequest, manner: str, random: Random
) -> tuple[int, bytes]:
    """Status and body of the answer, as far as it is read; status 0: not at all."""
    sent = request.sent
    if manner == "half":
        connection.sendall(sent[: random.randrange(1, len(sent))])
        return 0, b""
    if manner == "slow":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.sendall(sent)
    if manner == "ignores":
        time.sleep(random.uniform(0, 0.1))
        return 0, b""
    if manner in ("closes", "resets"):
        connection.recv(random.randrange(1, 1500))
        if manner == "resets":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return 0, b""
    return whole(connection, 0.001 if manner == "slow" else 0.0)


def code_of(status: int, body: bytes) -> str:
    """The code of an error, which has to be in OpenAI's form."""
    if status in (0, 200):
        return ""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}, body[:300]
    return str(error["code"])


def check_answer(request: ServedRequest, status: int, body: bytes) -> None:
    """Raises `AssertionError` unless an answer is what it should be."""
    if request.check is None:
        assert status in REFUSED | BUSY, "a wrong request was not refused"
    elif status in BUSY:
        pass
    elif status == 200:
        try:
            request.check(decoded(body))
        except Gpt2rtError:  # the library could not go on, either
            assert b'data: {"error":' in body, "answered, but the library has no answer"
    else:
        assert status == 400, body[:300]
        check_refusal(request)


def check_refusal(request: ServedRequest) -> None:
    """Raises `AssertionError` unless the library refuses the request, too."""
    assert request.check is not None
    with suppress(Gpt2rtError):
        request.check(
            {"choices": [], "data": []} if b'"stream": true' not in request.content else []
        )
        raise AssertionError("refused, but the library has an answer")


def decoded(body: bytes) -> Any:
    """The JSON of an answer, or the events of a stream."""
    if not body.startswith(b"data: "):
        return json.loads(body)
    parts = [part.removeprefix("data: ") for part in body.decode("ascii").split("\n\n")]
    assert parts.pop() == ""
    done = parts[-1] == "[DONE]"
    events = [json.loads(part) for part in parts[: -1 if done else None]]
    assert done != ("error" in events[-1]), "a stream that just ends"
    return events


def make_up(server: SoakedServer, examples: int, seed: int) -> int:
    """Send right and wrong requests that schemathesis makes up; returns how many.

    Whether each answer fits the description is the matter of tests/serving/test_schemathesis.py.
    """
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    statuses: list[int] = []
    operations: Any = schema.get_all_operations() if examples else ()
    for operation in (found.ok() for found in operations):
        for mode in GenerationMode:
            if (operation.method.upper(), mode) == ("GET", GenerationMode.NEGATIVE):
                continue  # all that can be asked is right

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=examples,
                database=None,
                deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def call(case: Any) -> None:
                statuses.append(case.call().status_code)
                assert statuses[-1] < 500 or statuses[-1] in BUSY, case

            call()
    return len(statuses)


# ---- the end


def check_idle(server: SoakedServer) -> None:
    """Wait until nothing runs and nothing waits."""

    def idle() -> bool:
        busy = [*server.counts("running").values(), *server.counts("queued").values()]
        return not any(busy) and server.counts("requests_in_flight") == {"": 1}

    wait_until(idle, LIMIT)


def check_slots(server: SoakedServer) -> None:
    """Every slot of every model is there: that many texts are continued side by side."""
    body = {"prompt": "ab", "n": SLOTS, "max_tokens": 12, "min_tokens": 12}
    for model in (FIRST, "talker-int8"):
        content = json.dumps({**body, "model": model}).encode()
        before = steps_of(server, model)
        with server.connect() as connection:
            connection.sendall(ServedRequest("slots", "POST", "/v1/completions", content).sent)
            status, answer = whole(connection)
        assert status == 200, answer
        made = steps_of(server, model) - before
        assert made == 12, f"{model} has not {SLOTS} slots: it made {made} steps"


def steps_of(server: SoakedServer, model: str) -> float:
    return server.counts("steps_total")[f'{{model="{model}"}}']


def check_log(server: SoakedServer) -> None:
    """No step failed, and nothing but documented statuses was ever answered."""
    assert not any(server.counts("failures_total").values())
    statuses = re.findall(r'status="(\d+)"', " ".join(server.counts("requests_total")))
    assert {int(status) for status in statuses} <= {200, 499} | REFUSED | BUSY, statuses
    assert "Traceback" not in server.said.read_text()
    assert server.process.poll() is None
