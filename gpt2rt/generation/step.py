"""A step of the model that was started: whose rows it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice

from gpt2rt.engine.engine import Engine, Sequence
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.generation.task import Task
from gpt2rt.sampling.selection import BEST, Row, Selected

Rows = Logits | Selected
Proposals = Mapping[Sequence, list[int]]


@dataclass(slots=True, eq=False)
class Step:
    """A step of the model that was started, with its rows of logits by whose they are.

    Attributes:
        rows: all of them.
        drawn: of texts in progress, one each.
        drafted: of texts for which tokens were proposed: these, and the rows after each.
        beams: of searches.
        opened: of prompts that are read to their ends.
    """

    rows: Rows
    drawn: dict[Sequence, Logits | Row]
    drafted: dict[Sequence, tuple[list[int], list[Logits | Row]]]
    beams: dict[Task, list[Logits | Row]]
    opened: dict[Sequence, Logits | Row]

    @classmethod
    def started(
        cls,
        engine: Engine,
        tasks: Mapping[Sequence, Task],
        proposals: Proposals,
        beams: Mapping[Task, Seq[Part]],
        before: Mapping[Sequence, Row],
    ) -> Step:
        """Start a step that continues texts after their last tokens, and reads other prompts on.

        Those tokens are known, except of texts with a row of the step `before`. `tasks` are of all
        sequences that take part, `proposals` of those in progress.
        """
        parts, draws = [], []
        for sequence, proposed in proposals.items():
            task, row = tasks[sequence], before.get(sequence)
            if row is not None:
                parts.append(sequence.after(row))
                draws.append(task.sampler.next_draw(1))
                continue
            parts.append(sequence.part([task.tokens[-1], *proposed], 1 + len(proposed)))
            draws += [task.sampler.next_draw(ahead) for ahead in range(1 + len(proposed))]
        for theirs in beams.values():
            parts += theirs
            draws += [BEST] * len(theirs)
        prompts = engine.pieces([sequence for sequence in tasks if sequence.unread])
        readers = [engine.running[part.slot] for part in prompts if part.wanted]
        draws += [tasks[sequence].sampler.next_draw() for sequence in readers]
        rows = engine.step([*parts, *prompts], draws)
        return cls._of(rows, proposals, {task: len(its) for task, its in beams.items()}, readers)

    @classmethod
    def _of(
        cls,
        rows: Rows,
        proposals: Proposals,
        beams: Mapping[Task, int],
        readers: Seq[Sequence],
    ) -> Step:
        """The step whose rows come in this order."""
        each: Iterator[Logits | Row] = iter(rows)
        step = cls(rows, {}, {}, {}, {})
        for sequence, proposed in proposals.items():
            if proposed:
                step.drafted[sequence] = proposed, list(islice(each, 1 + len(proposed)))
            else:
                step.drawn[sequence] = next(each)
        for task, count in beams.items():
            step.beams[task] = list(islice(each, count))
        step.opened.update(zip(readers, each, strict=True))
        return step

    def __bool__(self) -> bool:
        """Whether anybody still wants a row of it."""
        return bool(self.drawn or self.drafted or self.beams or self.opened)

    def wait(self) -> None:
        """Wait until it is done, if a device makes it."""
        if isinstance(self.rows, Selected):
            self.rows.wait()

    @property
    def pending(self) -> dict[Sequence, Row]:
        """The rows that texts may be continued after before their tokens are known."""
        return {**self.drawn, **self.opened} if isinstance(self.rows, Selected) else {}  # type: ignore[dict-item]

    @property
    def untold(self) -> list[Sequence]:
        """The sequences whose token the device could not tell."""
        if not isinstance(self.rows, Selected) or min(self.rows.chosen, default=0) >= 0:
            return []
        return [sequence for sequence, row in self.pending.items() if row.chosen < 0]

    def leave_out(self, sequence: Sequence) -> bool:
        """Forget the row of a sequence; whether there was one."""
        rows = self.drawn if sequence in self.drawn else self.opened
        return rows.pop(sequence, None) is not None
