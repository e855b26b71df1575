"""Runs requests on an engine: continuous batching, sliding windows, speculative decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace

from gpt2rt.engine.engine import Engine, Sequence
from gpt2rt.engine.slots import Logits
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.completion import Piece
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.speculation import Draft, DraftLength
from gpt2rt.generation.task import Task, now
from gpt2rt.sampling.selection import Row

HEAD, WINDOW = 16, 2  # a slide keeps 1/2 of the context, 1/16 of it from the beginning


class Scheduler:
    """Runs requests on an engine; whenever one ends, the next one takes its slot.

    The text of a request does not depend on the others.
    """

    def __init__(
        self,
        engine: Engine,
        n_ctx: int,
        begin: Callable[[Prompted], Task],
        draft: Callable[[], Draft] | None = None,
    ) -> None:
        """`begin` makes the task of a request, `draft` a draft for a sequence that runs alone."""
        self._engine = engine
        self._n_ctx = n_ctx
        self._begin = begin
        self._draft = draft
        self._drafting: tuple[Task, Draft, DraftLength] | None = None
        self._tasks: dict[Sequence, Task] = {}

    def run(self, requests: Iterable[Prompted]) -> Iterator[Piece]:
        """The pieces of all samples, interleaved as they are generated."""
        groups, waiting = same_prompt_groups(requests, self._engine.free), deque[Prompted]()
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
                yield from self._verify(running[0], proposed)
            elif running:
                tasks = [self._tasks[sequence] for sequence in running]
                draws = [task.sampler.next_draw() for task in tasks]
                rows = self._engine.step([task.tokens[-1] for task in tasks], draws)
                for sequence, row in zip(running, rows, strict=True):
                    yield self._drawn(sequence, row)

    def _admit(self, requests: list[Prompted]) -> Iterator[Piece]:
        """Start requests with the same prompt; invalid ones give a piece with the failure."""
        tasks = []
        for prompted in requests:
            try:
                tasks.append(self._begin(prompted))
            except Gpt2rtError as error:
                yield Piece(prompted.request.sample, "", failure=error)
        if tasks:
            yield from self._start(tasks)

    def _start(self, tasks: list[Task]) -> Iterator[Piece]:
        """Prefill once for tasks with the same prompt."""
        began = now()
        first, logits = self._engine.start(tasks[0].prompt_tokens)
        sequences = [first, *(self._engine.fork(first) for _ in tasks[1:])]
        prefill_ms = now() - began
        for sequence, task in zip(sequences, tasks, strict=True):
            self._tasks[sequence] = task
            task.started, task.prefill_ms, task.cached = began, prefill_ms, sequence.cached
        for sequence in sequences:
            yield self._drawn(sequence, logits)

    def _slide(self) -> Iterator[Piece]:
        """Restart sequences at the end of the context with the tokens that a slide keeps."""
        for sequence in self._engine.running:
            if sequence.length == self._n_ctx:
                task = self._tasks[sequence]
                logits = self._engine.restart(
                    sequence, window_after_slide(task.all_tokens, self._n_ctx)
                )
                yield self._drawn(sequence, logits)

    def _drawn(self, sequence: Sequence, logits: Logits | Row) -> Piece:
        """Draw the next token of a sequence."""
        return self._completed(sequence, self._draw(self._tasks[sequence], logits))

    @staticmethod
    def _draw(task: Task, logits: Logits | Row) -> Piece:
        """Draw a token; an error becomes the failure of the piece."""
        try:
            return task.take(logits)
        except Gpt2rtError as error:
            return Piece(task.request.sample, "", failure=error)

    def _completed(self, sequence: Sequence, piece: Piece) -> Piece:
        """The piece, with the completion if the sequence has ended; then its slot is freed."""
        task = self._tasks[sequence]
        if task.reason is None and piece.failure is None:
            return piece
        self._engine.finish(sequence)
        del self._tasks[sequence]
        return piece if piece.failure else replace(piece, completion=task.completion())

    def _proposed(self, sequence: Sequence) -> list[int]:
        """Tokens that the draft proposes; [] without a draft or if proposing does not pay."""
        task = self._tasks[sequence]
        if self._draft is None:
            return []
        if self._drafting is None or self._drafting[0] is not task:
            draft = self._draft()
            self._drafting = (task, draft, DraftLength(draft.cost))
        _, draft, length = self._drafting
        room = self._n_ctx - sequence.length - 1
        most = room if task.left is None else min(room, task.left - 1)
        count = length.choose(most) if most > 0 else 0
        return draft.propose(task.all_tokens, count, task.sampler) if count else []

    def _verify(self, sequence: Sequence, proposed: list[int]) -> Iterator[Piece]:
        """Read proposed tokens in one step, and draw as long as draws and proposals agree."""
        task = self._tasks[sequence]
        before, agreed = sequence.length, 0
        rows = self._engine.read(sequence, [task.tokens[-1], *proposed])
        for row, proposal in zip(rows, [*proposed, None], strict=True):
            piece = self._draw(task, row)
            if piece.token != proposal or proposal is None:
                break
            agreed += 1
            if task.reason is not None:
                break
            yield piece
        assert self._drafting is not None
        self._drafting[2].record(len(proposed), agreed)
        task.drafted += len(proposed)
        task.accepted += agreed
        self._engine.rewind(sequence, before + min(agreed + 1, len(rows)))
        yield self._completed(sequence, piece)


def same_prompt_groups(requests: Iterable[Prompted], most: int) -> Iterator[list[Prompted]]:
    """The requests in groups of at most `most` consecutive ones with the same prompt tokens."""
    group: list[Prompted] = []
    for request in requests:
        if group and (len(group) == most or request.tokens != group[0].tokens):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def window_after_slide(tokens: Seq[int], n_ctx: int) -> list[int]:
    """The tokens of a text that a slide keeps: half a context, from its beginning and its end.

    Since position embeddings are learned, keys and values cannot be moved, and these tokens have to
    be read again.
    """
    head, window = n_ctx // HEAD, max(1, n_ctx // WINDOW)
    return [*tokens[:head], *tokens[len(tokens) - window + head :]]
