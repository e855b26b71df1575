"""The step of all texts in progress: new tokens, prompts, sliding windows, drafts, beams."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace

import numpy as np

from gpt2rt.engine.engine import Engine, Sequence
from gpt2rt.engine.slots import Logits
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.beam_texts import BeamTexts
from gpt2rt.generation.completion import Piece
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.speculation import Draft, DraftLength, MakeDraft
from gpt2rt.generation.step import Step
from gpt2rt.generation.task import Task, now
from gpt2rt.sampling.selection import Row

HEAD, WINDOW = 16, 2  # a slide keeps 1/2 of the context, 1/16 of it from the beginning


class Scheduler:
    """The tasks in progress on an engine. They may join and leave between any two turns.

    Each turn is one step of the model: it appends a token to every text in progress, and reads the
    prompts of the others on. A text does not depend on the others.
    """

    def __init__(self, engine: Engine, n_ctx: int, draft: MakeDraft | None = None) -> None:
        """`draft` makes a draft for a sequence that runs alone."""
        self._engine = engine
        self._n_ctx = n_ctx
        self._draft = draft
        self._drafting: tuple[Task, Draft, DraftLength] | None = None
        self._tasks: dict[Sequence, Task] = {}
        # The tasks that wait until the prompt of a sequence has been read: its own first, then
        # those with the same prompt, for which slots are kept free.
        self._waiting: dict[Sequence, list[Task]] = {}
        self._ended: list[Sequence] = []  # in this turn
        self._ahead: Step | None = None  # started, while the one before was not done
        self._searches: dict[Task, BeamTexts] = {}

    @property
    def free(self) -> int:
        """How many slots are free, and not kept for a task that was admitted."""
        waiting = sum(task.slots for tasks in self._waiting.values() for task in tasks)
        kept = sum(search.reserved for search in self._searches.values())
        return self._engine.free - (waiting - len(self._waiting)) - kept

    def admit(self, tasks: Seq[Task]) -> None:
        """Start tasks with the same prompt tokens, or one search; they take at most `free`."""
        sequence = self._engine.start(tasks[0].prompt_tokens)
        self._tasks[sequence], self._waiting[sequence] = tasks[0], list(tasks)
        for task in tasks:
            task.started = now()

    def drop(self, task: Task) -> None:
        """End a task that was admitted; those that wait for the same prompt keep its sequence."""
        if task in self._searches:
            self._end_search(task)
            return
        for sequence, mates in self._waiting.items():
            if task in mates:
                mates.remove(task)
                if mates:
                    self._tasks[sequence] = mates[0]
                else:
                    self._finish(sequence)
                return
        self._finish(next(sequence for sequence, of in self._tasks.items() if of is task))

    def turn(self, resting: Container[Task] = ()) -> list[tuple[Task, Piece]]:
        """Make one step, in which `resting` tasks do not take part; the pieces it gives.

        On a device the next step is started before this one is done, where that is possible.
        """
        step, self._ahead = self._ahead or self._start(self._awake(resting), {}), None
        if self._may_go_ahead():
            self._ahead = self._start_ahead(step, resting)
        step.wait()
        if self._ahead is not None:
            self._take_back(self._ahead, step.untold)
        found: list[tuple[Task, Piece]] = []
        for sequence, (proposed, rows) in step.drafted.items():
            found += self._verify(sequence, proposed, rows)
        for sequence, row in step.drawn.items():
            found.append(self._drawn(sequence, row))
        for task, rows in step.beams.items():
            found += self._extended(task, rows)
        for sequence, row in step.opened.items():
            found += self._opened(sequence, row)
        self._finish(*self._ended)  # together, so that few others move into their slots
        self._ended.clear()
        return found

    def _awake(self, resting: Container[Task]) -> dict[Sequence, Task]:
        return {s: task for s, task in self._tasks.items() if task not in resting}

    def _start(self, tasks: dict[Sequence, Task], before: dict[Sequence, Row]) -> Step:
        """Start a step for these tasks; with a row of the step `before` their token is not known.

        At the end of the context, a sequence begins again with the tokens that a slide keeps.
        """
        for sequence, task in tasks.items():
            if sequence.length == self._n_ctx:
                self._engine.restart(sequence, window_after_slide(task.all_tokens, self._n_ctx))
        proposals = {s: self._proposed(s) for s in tasks if not s.unread}
        beams = {task: search.parts() for task, search in self._searches.items()}
        return Step.started(self._engine, tasks, proposals, beams, before)

    def _may_go_ahead(self) -> bool:
        """Whether a step may be started before the one before is done.

        What is drawn next must not depend, in any text, on the last token but through the model.
        """
        return (
            self._engine.ahead
            and self._draft is None
            and not self._searches
            and all(len(mates) == 1 and mates[0].beams is None for mates in self._waiting.values())
            and all(task.goes_ahead for task in self._tasks.values())
        )

    def _start_ahead(self, step: Step, resting: Container[Task]) -> Step | None:
        """Start the step after `step`, without texts that this one ends; None: it has to wait.

        If a text turns out to end, its row is left out later. A step that fails is made again in
        its turn, where it fails as any other.
        """
        pending, tasks = step.pending, self._awake(resting)
        for sequence in pending:
            if sequence in tasks and not self._goes_on(sequence, tasks[sequence]):
                del tasks[sequence]
        before = {sequence: row for sequence, row in pending.items() if sequence in tasks}
        if not before:
            return None
        try:
            return self._start(tasks, before)
        except Exception:
            return None

    def _goes_on(self, sequence: Sequence, task: Task) -> bool:
        """Whether the next token neither ends the text for sure nor the context."""
        return task.left != 1 and sequence.length < self._n_ctx

    def _proposed(self, sequence: Sequence) -> list[int]:
        """Tokens that the draft proposes for a sequence that runs alone; [] if it does not pay."""
        if self._draft is None or len(self._tasks) > 1 or self._searches:
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
    ) -> Iterator[tuple[Task, Piece]]:
        """Draw after the last token, and then as long as draws and proposals agree."""
        task, agreed = self._tasks[sequence], 0
        for row, proposal in zip(rows, [*proposed, None], strict=True):
            piece = self._draw(task, row)
            if piece.token != proposal or proposal is None:
                break
            agreed += 1
            if task.reason is not None:
                break
            yield task, piece
        assert self._drafting is not None
        self._drafting[2].record(len(proposed), agreed)
        task.drafted += len(proposed)
        task.accepted += agreed
        self._engine.rewind(sequence, sequence.length - len(proposed) + agreed)
        yield task, self._completed(sequence, task, piece)

    def _opened(self, sequence: Sequence, row: Logits | Row) -> Iterator[tuple[Task, Piece]]:
        """Draw the next token of all tasks whose prompt has been read.

        A device has drawn that of the first; the others' are drawn one by one.
        """
        waiting = self._waiting.pop(sequence, [])  # none after a slide
        sequences = [sequence, *(self._engine.fork(sequence) for _ in waiting[1:])]
        for opened, task in zip(sequences, waiting, strict=False):
            self._tasks[opened] = task
            task.prefill_ms, task.cached = now() - task.started, opened.cached
        if waiting and waiting[0].beams is not None:
            task = self._tasks.pop(sequence)
            self._searches[task] = BeamTexts(self._engine, sequence, task)
            yield from self._extended(task, [row])
            return
        yield self._drawn(sequence, row)
        for opened in sequences[1:]:
            if isinstance(row, Row):
                row = row.again(self._tasks[opened].sampler.next_draw())
            yield self._drawn(opened, row)

    def _extended(self, task: Task, rows: Seq[Logits | Row]) -> Iterator[tuple[Task, Piece]]:
        """Go on with a search; its piece if it ends."""
        piece = Piece(task.request.sample, "")
        try:
            task.found = self._searches[task].take([np.asarray(row) for row in rows])
            if not task.found:
                return
            piece = replace(piece, completion=task.found[0])
        except Gpt2rtError as error:
            piece = replace(piece, failure=error)
        self._end_search(task)
        yield task, piece

    def _end_search(self, task: Task) -> None:
        self._engine.finish(*self._searches.pop(task).sequences)

    def _drawn(self, sequence: Sequence, row: Logits | Row) -> tuple[Task, Piece]:
        """Draw the next token of a sequence."""
        task = self._tasks[sequence]
        return task, self._completed(sequence, task, self._draw(task, row))

    def _take_back(self, step: Step, sequences: Iterable[Sequence]) -> None:
        """Take sequences out of a step, in which the device continued them with no token."""
        for sequence in sequences:
            if step.leave_out(sequence):
                self._engine.rewind(sequence, sequence.length - 1)

    @staticmethod
    def _draw(task: Task, logits: Logits | Row) -> Piece:
        """Draw a token; an error becomes the failure of the piece."""
        try:
            return task.take(logits)
        except Gpt2rtError as error:
            return Piece(task.request.sample, "", failure=error)

    def _completed(self, sequence: Sequence, task: Task, piece: Piece) -> Piece:
        """The piece, with the completion if the sequence has ended."""
        if task.reason is None and piece.failure is None:
            return piece
        self._ended.append(sequence)
        return piece if piece.failure else replace(piece, completion=task.completion())

    def _finish(self, *sequences: Sequence) -> None:
        self._engine.finish(*sequences)
        for sequence in sequences:
            del self._tasks[sequence]
            self._waiting.pop(sequence, None)
            if self._ahead is not None:
                self._ahead.leave_out(sequence)


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
