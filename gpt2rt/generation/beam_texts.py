"""Beam search over text: completions, with stop strings and stop tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from gpt2rt.engine.engine import Engine, Sequence
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.generation.beams import BeamSearch
from gpt2rt.generation.completion import Completion
from gpt2rt.generation.stopping import FinishReason
from gpt2rt.generation.task import Task


class BeamTexts:
    """The search for the best texts of a task, from when its prompt has been read."""

    def __init__(self, engine: Engine, sequence: Sequence, task: Task) -> None:
        """`sequence` is that of the prompt; the engine has `task.slots` for the search."""
        assert task.beams is not None
        self._task = task
        self._endings = _Endings(task)
        self._search = BeamSearch(engine, sequence, task.beams, self._edited, self._endings.reason)

    def _edited(self, tokens: Seq[int], logits: Logits) -> Logits:
        return self._task.sampler.edited(logits, tokens)

    @property
    def sequences(self) -> list[Sequence]:
        """The sequences that it has now."""
        return self._search.sequences

    @property
    def reserved(self) -> int:
        """How many slots are kept for sequences that it may have later."""
        return self._task.slots - len(self.sequences)

    def parts(self) -> list[Part]:
        """The parts of the next step."""
        return self._search.parts()

    def take(self, rows: Seq[Logits]) -> list[Completion]:
        """Go on by the logits [n_vocab] after each part: the texts, or none while it goes on.

        Raises `BadLogits`, and `InvalidSetting` if the settings leave no token.
        """
        if not self._search.take(rows):
            return []
        found = []
        for text in self._search.finished:
            finished = self._endings.finished[text.tokens]
            finished.score = text.score
            found.append(finished.completion())
        return found


class _Endings:
    """Decides why the tokens of a beam end its text, with a task for each beam.

    The task of a candidate is a branch of its parent's, so the text is decoded only once.
    """

    def __init__(self, first: Task) -> None:
        self._parents: dict[tuple[int, ...], Task] = {}
        self._children: dict[tuple[int, ...], Task] = {(): first}
        self._length = 0
        self.finished: dict[tuple[int, ...], Task] = {}

    def reason(self, tokens: tuple[int, ...]) -> FinishReason | None:
        """Why `tokens` end the text; None: they do not. Their parent was asked about before."""
        if len(tokens) > self._length:
            self._parents, self._children, self._length = self._children, {}, len(tokens)
        task = self._parents[tokens[:-1]].branch()
        task.accept(tokens[-1])
        (self._children if task.reason is None else self.finished)[tokens] = task
        return task.reason
