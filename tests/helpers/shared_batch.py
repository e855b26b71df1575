"""A batch of a test's own, and threads that share it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from batches import Engines
from callers import assert_empty
from gpt2rt import GPT2

WATCHDOG = 60  # seconds until a thread counts as hanging


@contextmanager
def left_empty(model: GPT2) -> Iterator[GPT2]:
    """A model whose batch is empty before and after a test."""
    assert_empty(model.batch)
    yield model
    assert_empty(model.batch)


def limited(model: GPT2, slots: int, queue: int | None = None) -> Engines:
    """With a batch of that many slots."""
    engines = Engines(model.new_slots)
    engines.batch.limit(slots, queue)
    return engines


def hanging(threads: Sequence[threading.Thread]) -> list[threading.Thread]:
    """The threads that have not ended after `WATCHDOG` seconds."""
    until = time.monotonic() + WATCHDOG
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]
