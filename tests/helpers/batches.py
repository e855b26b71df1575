"""Batches over engines of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gpt2rt import HParams, Piece, Request
from gpt2rt.engine.engine import Engine
from gpt2rt.engine.slots import Slots
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.running import run_all
from gpt2rt.generation.speculation import MakeDraft
from gpt2rt.generation.tasks import Tasks
from models import TINY


@dataclass(eq=False)
class Engines:
    """What a batch needs of its model: slots, and an engine over them. `batch` is that batch."""

    new_slots: Callable[[int], Slots]
    engine_of: Callable[[Slots], Engine] = Engine
    make_draft: MakeDraft | None = None
    hparams: HParams = TINY

    def __post_init__(self) -> None:
        self.batch = Batch(self)

    def engine(self, count: int) -> Engine:
        return self.engine_of(self.new_slots(count))

    def run(
        self, requests: Iterable[Request], tasks: Tasks, most: int, budget: int | None = None
    ) -> Iterator[Piece]:
        """The pieces of requests."""
        self.tasks = tasks
        self.batch.limit(None, None, budget)
        yield from run_all(self, tasks.read(requests), most, ends_only=False)
