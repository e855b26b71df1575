"""From requests to pieces of text: continuous batching, sliding, speculation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace

from gpt2rt.engine.engine import Engine, Sequence
from gpt2rt.engine.slots import Logits
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.completion import Piece
from gpt2rt.generation.request import Request
from gpt2rt.generation.speculation import Draft, Pace
from gpt2rt.generation.task import Task, now
from gpt2rt.sampling.selection import Row

HEAD, WINDOW = 16, 2  # a slide keeps 1/2 of the context: 1/16 from the beginning, else the end


class Scheduler:
    """Runs requests on an engine: the next one takes the slot of each that ends.

    Whatever runs beside it, a sample is the text that its request gives alone.
    """

    def __init__(
        self,
        engine: Engine,
        n_ctx: int,
        begin: Callable[[Request], Task],
        draft: Callable[[], Draft] | None = None,
    ) -> None:
        """`begin` makes the task of a request, `draft` the draft of a sequence that runs alone."""
        self._engine = engine
        self._n_ctx = n_ctx
        self._begin = begin
        self._draft = draft
        self._drafting: tuple[Task, Draft, Pace] | None = None
        self._at_work: dict[Sequence, Task] = {}

    def run(self, requests: Iterable[Request]) -> Iterator[Piece]:
        """The pieces of all samples, interleaved as they are made."""
        groups, waiting = alike(requests, self._engine.free), deque[Request]()
        while True:
            while self._engine.free:
                if not waiting:
                    waiting.extend(next(groups, ()))
                if not waiting:
                    break
                taken = [waiting.popleft() for _ in range(min(len(waiting), self._engine.free))]
                yield from self._admit(taken)
            if not self._engine.running:
                return
            yield from self._slide()
            running = self._engine.running
            if len(running) == 1 and (proposed := self._proposed(running[0])):
                yield from self._check(running[0], proposed)
            elif running:
                tasks = [self._at_work[sequence] for sequence in running]
                draws = [task.sampler.next_draw() for task in tasks]
                rows = self._engine.step([task.tokens[-1] for task in tasks], draws)
                for sequence, row in zip(running, rows, strict=True):
                    yield self._drawn(sequence, row)

    def _admit(self, requests: list[Request]) -> Iterator[Piece]:
        """Start those of some requests with the same prompt that can be."""
        tasks = []
        for request in requests:
            try:
                tasks.append(self._begin(request))
            except Gpt2rtError as error:
                yield Piece(request.sample, "", failure=error)
        if tasks:
            yield from self._start(tasks)

    def _start(self, tasks: list[Task]) -> Iterator[Piece]:
        """Read a prompt once for all the tasks that begin with it."""
        began = now()
        first, logits = self._engine.start(tasks[0].prompt_tokens)
        sequences = [first, *(self._engine.fork(first) for _ in tasks[1:])]
        prefill_ms = now() - began
        for sequence, task in zip(sequences, tasks, strict=True):
            self._at_work[sequence] = task
            task.started, task.prefill_ms, task.cached = began, prefill_ms, sequence.cached
        for sequence in sequences:
            yield self._drawn(sequence, logits)

    def _slide(self) -> Iterator[Piece]:
        """Sequences at the end of the context go on from what a slide keeps."""
        for sequence in self._engine.running:
            if sequence.length == self._n_ctx:
                task = self._at_work[sequence]
                logits = self._engine.restart(sequence, kept(task.known, self._n_ctx))
                yield self._drawn(sequence, logits)

    def _drawn(self, sequence: Sequence, logits: Logits | Row) -> Piece:
        """The next piece of a sequence."""
        return self._passed(sequence, self._taken(self._at_work[sequence], logits))

    @staticmethod
    def _taken(task: Task, logits: Logits | Row) -> Piece:
        try:
            return task.take(logits)
        except Gpt2rtError as error:
            return Piece(task.request.sample, "", failure=error)

    def _passed(self, sequence: Sequence, piece: Piece) -> Piece:
        """The piece as it is, or as the last one of a sequence whose slot is cleared."""
        task = self._at_work[sequence]
        if task.reason is None and piece.failure is None:
            return piece
        self._engine.finish(sequence)
        del self._at_work[sequence]
        return piece if piece.failure else replace(piece, completion=task.completion())

    def _proposed(self, sequence: Sequence) -> list[int]:
        """What the draft has to say; nothing where there is none or where it does not pay."""
        task = self._at_work[sequence]
        if self._draft is None:
            return []
        if self._drafting is None or self._drafting[0] is not task:
            draft = self._draft()
            self._drafting = (task, draft, Pace(draft.cost))
        _, draft, pace = self._drafting
        room = self._n_ctx - sequence.length - 1
        most = room if task.left is None else min(room, task.left - 1)
        count = pace.count(most) if most > 0 else 0
        return draft.propose(task.known, count, task.sampler) if count else []

    def _check(self, sequence: Sequence, proposed: list[int]) -> Iterator[Piece]:
        """Read what was proposed; draw as long as draws and proposals agree."""
        task = self._at_work[sequence]
        before, agreed = sequence.length, 0
        rows = self._engine.read(sequence, [task.tokens[-1], *proposed])
        for row, proposal in zip(rows, [*proposed, None], strict=True):
            piece = self._taken(task, row)
            if piece.token != proposal or proposal is None:
                break
            agreed += 1
            if task.reason is not None:
                break
            yield piece
        assert self._drafting is not None
        self._drafting[2].learn(len(proposed), agreed)
        task.drafted += len(proposed)
        task.accepted += agreed
        self._engine.rewind(sequence, before + min(agreed + 1, len(rows)))
        yield self._passed(sequence, piece)


def alike(requests: Iterable[Request], most: int) -> Iterator[list[Request]]:
    """Runs of at most `most` requests whose prompt is the same, read once for all of them."""
    group: list[Request] = []
    for request in requests:
        if group and (len(group) == most or not _same_prompt(request, group[0])):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def _same_prompt(one: Request, other: Request) -> bool:
    wanted = (other.prompt, other.truncate, other.special)
    return (one.prompt, one.truncate, one.special) == wanted


def kept(tokens: Seq[int], n_ctx: int) -> list[int]:
    """What a slide keeps of a text: half a context, its beginning and its recent end.

    Positions are learned, so that keys and values cannot move: the window is read anew.
    """
    head, window = n_ctx // HEAD, max(1, n_ctx // WINDOW)
    return [*tokens[:head], *tokens[len(tokens) - window + head :]]
