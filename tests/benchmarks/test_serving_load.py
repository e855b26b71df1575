"""`gpt2rt bench --serve`: what a client of the load measures, its errors, and the figures."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil")
pytest.importorskip("archspec")
pytest.importorskip("fastapi")

from command_line import Command
from gpt2rt.bundles.bundle import Bundle
from gpt2rt_bench.serving import report
from gpt2rt_bench.serving.load import AFTER_LONG, Load, LoadRound, run_clients
from gpt2rt_bench.serving.measure import LibraryResult, ServerResult, ServingPlan, ServingResult
from gpt2rt_bench.serving.process import model_at, own_seconds
from gpt2rt_bench.serving.streams import StreamClient, StreamedText
from gpt2rt_bench.subject import SubjectFailed
from gpt2rt_bench.summary import Interval
from models import TINY

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def part(text: str, **more: Any) -> bytes:
    return f"data: {json.dumps({'choices': [{'text': text}], **more})}\n\n".encode()


def streamed(
    *answers: bytes, times: int = 1, pause: Callable[[], None] = lambda: None
) -> list[StreamedText]:
    """The texts that a client reads from a server that sends `answers`, a pause before each."""
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length: ")[2].split("\r\n")[0])
            asked.append(json.loads(await reader.readexactly(size)))
            for number, data in enumerate(answers):
                for _ in range(20 if number else 0):  # in which the client reads what came
                    await asyncio.sleep(0)
                pause()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def run() -> list[StreamedText]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with StreamClient(f"http://127.0.0.1:{port}/v1") as client:
                return [await client.stream({"prompt": [i]}) for i in range(times)]

    found = asyncio.run(run())
    assert [body["prompt"] for body in asked] == [[i] for i in range(times)]
    assert all(body["stream"] for body in asked)
    return found


def test_a_client_notes_when_each_part_came_on_one_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, done = [0.0], b"data: [DONE]\n\n"

    def pause() -> None:
        now[0] += 0.03

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    usage = part("", usage={"completion_tokens": 5})
    for text in streamed(
        HEAD + chunk(part("a")), chunk(part("b")), chunk(usage + done) + END, times=2, pause=pause
    ):
        assert text.tokens == 5
        (between,) = text.between_ms  # what has no text is no part
        assert between == pytest.approx(30)
        assert text.first_ms == pytest.approx(30)
        assert text.token_ms == pytest.approx(between / 4)


def test_events_are_the_same_however_they_are_cut() -> None:
    data = b": ping\n\n" + part("a") + part("b") + b"data: [DONE]\n\n"
    lines = data.replace(b"\n", b"\r\n")
    cuts = [(sent, cut) for sent in (data, lines) for cut in range(1, len(sent))]
    for sent, cut in cuts:
        (text,) = streamed(HEAD + chunk(sent[:cut]) + chunk(sent[cut:]) + END)
        assert (len(text.arrivals), text.tokens) == (2, 2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 429 Many\r\nContent-Length: 4\r\n\r\nlate", "status 429: late"),
        (HEAD + chunk(b'data: {"error": {"message": "no"}}\n\n') + END, "'message': 'no'"),
        (HEAD.replace(b"chunked", b"none"), "not sent in chunks"),
        (HEAD + b"x\r\n", "ValueError"),
        (HEAD + chunk(part("a")) + END, "without [DONE]"),
        (HEAD + END, "without [DONE]"),
        (HEAD + chunk(part("a")), "ValueError"),
        (HEAD + b"ff\r\nshort", "IncompleteReadError"),
        (b"", "IncompleteReadError"),
    ],
)
def test_a_server_that_fails_is_named_with_what_it_said(answer: bytes, said: str) -> None:
    with pytest.raises(SubjectFailed, match=r"http://127.0.0.1:\d+.*") as raised:
        streamed(answer)
    assert said in str(raised.value)


def test_nobody_there() -> None:
    load = Load.drawn(TINY, 2, 4, 0)
    with pytest.raises(SubjectFailed, match=r"http://127\.0\.0\.1:9: Connection"):
        run_clients("http://127.0.0.1:9", load, 2)
    assert model_at("http://127.0.0.1:9") == {}
    assert own_seconds("http://127.0.0.1:9") is None


def test_a_load_is_repeatable_and_fits_the_context() -> None:
    for steps in (2, 8, 40):
        load = Load.drawn(TINY, 50, steps, 3)
        assert load == Load.drawn(TINY, 50, steps, 3)
        assert load.prompts != Load.drawn(TINY, 50, steps, 4).prompts
        longest = max(map(len, load.prompts))
        assert longest + steps <= TINY.n_ctx
        assert len(load.long) + AFTER_LONG <= TINY.n_ctx
        assert {token < TINY.n_vocab - 1 for prompt in load.prompts for token in prompt} == {True}
        seeds = [body["seed"] for body in load.bodies()]
        assert len(set(seeds)) == 50


def text(began: float, *arrivals: float) -> StreamedText:
    return StreamedText(began, list(arrivals), len(arrivals))


def result(bundle: Bundle, **known: Any) -> ServingResult:
    """Two rounds of two texts each, of 0.5 s; the library makes 8 tokens a second."""
    one = LoadRound([text(0.0, 0.1, 0.2, 0.4), text(0.0, 0.3, 0.4, 0.5)], 0.5)
    server = ServerResult("here", [one] * 2, [one] * 2, [one] * 2, **known)
    return ServingResult(
        ServingPlan(bundle, steps=8), [server], LibraryResult([8.0, 16.0], [75.0, 75.0])
    )


def test_figures_are_those_of_their_definitions(tiny_bundles: dict[str, Bundle]) -> None:
    found = result(tiny_bundles["int8"], own=[0.006, 0.006], starts=[1.0, 2.0, 3.0])
    (record,) = report.records(found)
    assert record["tokens_per_second"]["median"] == pytest.approx(12)
    assert record["of_batch"] == asdict(Interval.of([12 / 8, 12 / 16]))
    assert record["first_ms_p50"] == pytest.approx(200)
    assert record["between_ms_p50"] == pytest.approx(100)
    assert record["between_ms_p95_beside_long"] == pytest.approx(200)
    assert record["between_ratio_beside_long"] == pytest.approx(2)
    assert record["own_ms_per_1000"]["median"] == pytest.approx(1000)
    assert record["alone_ms"]["median"] == pytest.approx(125)
    assert record["of_generate"]["median"] == pytest.approx(125 / 75)
    assert record["start_seconds"]["median"] == 2.0
    assert json.loads(json.dumps(record)) == record


def test_the_table_has_every_figure_or_nothing_for_one_that_is_not_known(
    tiny_bundles: dict[str, Bundle],
) -> None:
    whole = report.records(result(tiny_bundles["int8"], own=[0.006, 0.006], starts=[1.0]))
    parts = report.records(result(tiny_bundles["int8"]))
    cells = {title: (ours, theirs) for title, ours, theirs in report.table([*whole, *parts])}
    assert cells["tokens/s"] == ("12", "12")
    assert cells["own CPU, ms per 1,000 tokens"] == ("1000.0", "")
    assert cells["ready after kill -9, s"] == ("1.00", "")
    assert {title for title, (ours, _) in cells.items() if not ours} == {"with long prompts:"}


@pytest.mark.slow
def test_bench_measures_a_server(
    command: Command, model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2rt_bench.serving.measure.RESTARTS", 1)
    size = ["--clients", 2, "--steps", 4, "--rounds", 1, "--threads", 1, "--long-every", 0.05]
    ended = command("bench", model, "--serve", *size, "--json")
    assert ended.code == 0, ended.err
    (record,) = ended.records
    assert record["server"] == "gpt2rt serve"
    assert (record["clients"], record["steps"], record["rounds"]) == (2, 4, 1)
    for name in ("tokens_per_second", "of_batch", "start_seconds"):
        assert record[name]["median"] > 0
    assert record["first_ms_p50"] <= record["first_ms_p95"]
