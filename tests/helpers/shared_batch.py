"""Requests to a batch that many callers share, and what comes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from any_settings import finished
from batches import Engines
from gpt2rt import GPT2, Piece, Request, SamplingParams, Stopping
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.client import Client
from gpt2rt.generation.task import Task

LENGTH = 6
PROMPTS = ["the cat", "the cat sat on the mat", "a", "many more words than there are in the others"]
WATCHDOG = 60  # seconds until a thread counts as hanging


@contextmanager
def left_empty(model: GPT2) -> Iterator[GPT2]:
    """A model whose batch is empty before and after a test."""
    assert_empty(model.batch)
    yield model
    assert_empty(model.batch)


def assert_empty(batch: Batch) -> None:
    now = batch.statistics
    assert (now.running, now.queued, now.slots) == (0, 0, 0)


def request(sample: int, length: int = LENGTH) -> Request:
    """One of a few requests, which differ in all that matters."""
    params = SamplingParams(seed=sample, top_k=(0, 40)[sample % 2], temperature=sample % 3 / 2)
    overflow = ("stop", "slide")[sample % 5 == 4]
    stopping = Stopping(length, end_of_text=False, overflow=overflow)  # type: ignore[arg-type]
    return Request(PROMPTS[sample % len(PROMPTS)], params, stopping, sample=sample)


def tasks(model: GPT2, requests: Sequence[Request]) -> list[Task]:
    return [model.tasks.begin(prompted) for prompted in model.tasks.read(requests)]


def alone(model: GPT2, wanted: Request) -> tuple[int, ...]:
    (completion,) = finished(model, [wanted], 1)
    return completion.tokens


def drained(client: Client) -> list[Piece]:
    pieces = []
    while client.in_flight:
        pieces += client.take()
    return pieces


def completed(pieces: Sequence[Piece]) -> dict[int, tuple[int, ...]]:
    return {p.sample: p.completion.tokens for p in pieces if p.completion}


def hanging(threads: Sequence[threading.Thread]) -> list[threading.Thread]:
    until = time.monotonic() + WATCHDOG
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]


def limited(model: GPT2, slots: int, queue: int | None = None) -> Engines:
    """With a batch of that many slots."""
    engines = Engines(model.new_slots)
    engines.batch.limit(slots, queue)
    return engines
