"""Runs requests on an engine: continuous batching, sliding windows, speculative decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import islice

import numpy as np

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

    Each turn is one step of the model: it appends a token to every text in progress, and reads the
    prompts of the others on. The text of a request does not depend on the others.
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
        self._tasks: dict[Sequence, Task] = {}  # in the order in which their prompts came
        # The tasks that wait until the prompt of a sequence has been read: its own first, then
        # those with the same prompt, for which slots are kept free.
        self._waiting: dict[Sequence, list[Task]] = {}

    def run(self, requests: Iterable[Prompted]) -> Iterator[Piece]:
        """The pieces of all samples, interleaved as they are generated."""
        groups, left = same_prompt_groups(requests, self._engine.free), deque[Prompted]()
        while True:
            while free := self._free():
                if not left:
                    left.extend(next(groups, ()))
                if not left:
                    break
                yield from self._admit([left.popleft() for _ in range(min(len(left), free))])
            if not self._tasks:
                return
            self._slide()
            yield from self._turn()

    def _free(self) -> int:
        """How many slots are free, and not kept for a request that was admitted."""
        return self._engine.free - sum(len(tasks) - 1 for tasks in self._waiting.values())

    def _admit(self, requests: list[Prompted]) -> Iterator[Piece]:
        """Start requests with the same prompt; invalid ones give a piece with the failure."""
        tasks = []
        for prompted in requests:
            try:
                tasks.append(self._begin(prompted))
            except Gpt2rtError as error:
                yield Piece(prompted.request.sample, "", failure=error)
        if tasks:
            sequence = self._engine.start(tasks[0].prompt_tokens)
            self._tasks[sequence], self._waiting[sequence] = tasks[0], tasks
            for task in tasks:
                task.started = now()

    def _slide(self) -> None:
        """Restart sequences at the end of the context with the tokens that a slide keeps."""
        for sequence, task in list(self._tasks.items()):
            if sequence.length == self._n_ctx:
                self._engine.restart(sequence, window_after_slide(task.all_tokens, self._n_ctx))
                self._tasks[sequence] = self._tasks.pop(sequence)  # behind prompts being read

    def _turn(self) -> Iterator[Piece]:
        """One step: the next token, or proposals of the draft, of every text; pieces of prompts."""
        engine, tasks = self._engine, self._tasks
        proposals = {s: self._proposed(s) for s in tasks if not s.unread}
        parts = [s.part([tasks[s].tokens[-1], *p], 1 + len(p)) for s, p in proposals.items()]
        draws = [
            tasks[sequence].sampler.next_draw(ahead)
            for sequence, proposed in proposals.items()
            for ahead in range(1 + len(proposed))
        ]
        prompts = engine.pieces([sequence for sequence in tasks if sequence.unread])
        readers = [engine.running[part.slot] for part in prompts if part.wanted]
        draws += [tasks[sequence].sampler.next_draw() for sequence in readers]
        rows = iter(engine.step([*parts, *prompts], draws))
        for sequence, proposed in proposals.items():
            yield from self._verify(sequence, proposed, list(islice(rows, 1 + len(proposed))))
        for sequence, row in zip(readers, rows, strict=True):
            yield from self._opened(sequence, np.asarray(row))

    def _proposed(self, sequence: Sequence) -> list[int]:
        """Tokens that the draft proposes for a sequence that runs alone; [] if it does not pay."""
        if self._draft is None or len(self._tasks) > 1:
            return []
        task = self._tasks[sequence]
        if self._drafting is None or self._drafting[0] is not task:
            draft = self._draft()
            self._drafting = (task, draft, DraftLength(draft.cost))
        _, draft, length = self._drafting
        room = self._n_ctx - sequence.length - 1
        most = room if task.left is None else min(room, task.left - 1)
        count = length.choose(most) if most > 0 else 0
        return draft.propose(task.all_tokens, count, task.sampler) if count else []

    def _verify(
        self, sequence: Sequence, proposed: list[int], rows: list[Logits | Row]
    ) -> Iterator[Piece]:
        """Draw after the last token, and then as long as draws and proposals agree."""
        task, agreed = self._tasks[sequence], 0
        for row, proposal in zip(rows, [*proposed, None], strict=True):
            piece = self._draw(task, row)
            if piece.token != proposal or proposal is None:
                break
            agreed += 1
            if task.reason is not None:
                break
            yield piece
        if proposed:
            assert self._drafting is not None
            self._drafting[2].record(len(proposed), agreed)
            task.drafted += len(proposed)
            task.accepted += agreed
            self._engine.rewind(sequence, sequence.length - len(proposed) + agreed)
        yield self._completed(sequence, piece)

    def _opened(self, sequence: Sequence, logits: Logits) -> Iterator[Piece]:
        """Draw the next token of all tasks whose prompt has been read."""
        waiting = self._waiting.pop(sequence, [])  # none after a slide
        sequences = [sequence, *(self._engine.fork(sequence) for _ in waiting[1:])]
        for opened, task in zip(sequences, waiting, strict=False):
            self._tasks[opened] = task
            task.prefill_ms, task.cached = now() - task.started, opened.cached
        for opened in sequences:
            yield self._completed(opened, self._draw(self._tasks[opened], logits))

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
