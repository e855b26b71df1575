"""The parts of a job made by this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gpt2rt.corpus.jobs import Job
from gpt2rt.corpus.parts import DonePart, Layout
from gpt2rt.corpus.shards import Shard


def made(job: Job, model: Any, shards: Iterable[Shard], layout: Layout) -> Iterator[DonePart]:
    """Write the parts of all shards, each noted when its files are in place.

    Rows of the next shard begin while the last ones of a shard end, so no batch runs empty at a
    shard's end; therefore parts may come in another order. A worker that is given several shards
    may call this, too.
    """
    raise NotImplementedError
