"""The access log: what it has of a request, and what it loses rather than wait."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from typing import Annotated

import pytest
from fastapi import Body, Request

from gpt2rt.serving.access import AccessLog
from gpt2rt.serving.settings import ServeSettings
from serving import running, wait_until


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
    log.add({"n": 0})
    wait_until(stuck.asked.is_set)
    for number in range(1, 9):
        log.add({"n": number})
    stuck.reading.set()
    wait_until(lambda: '{"n": 2}' in stuck.getvalue())
    log.add({"n": 9})
    log.close()
    assert '{"n": 9, "lost_lines": 6}' in stuck.getvalue()


class Stuck(io.StringIO):
    """A stream that takes nothing until `reading` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.reading = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
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
