"""Beam search over text: completions, with stop strings and stop tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from gpt2rt.engine.engine import Engine
from gpt2rt.engine.slots import Logits
from gpt2rt.generation.beams import Beams, beam_search
from gpt2rt.generation.completion import Completion
from gpt2rt.generation.stopping import FinishReason
from gpt2rt.generation.task import Task, now


def best_texts(engine: Engine, first: Task, beams: Beams) -> list[Completion]:
    """The completions that a beam search finds for the task `first`, the best first.

    Raises `BadLogits`, and `InvalidSetting` if the settings leave no token.
    """
    began = now()
    endings = _Endings(first)

    def edit(tokens: Seq[int], logits: Logits) -> Logits:
        return first.sampler.edited(logits, tokens)

    sequence = engine.start(first.prompt_tokens)
    (logits,) = engine.read([sequence])
    prefill_ms = now() - began
    found = []
    for text in beam_search(engine, sequence, logits, beams, edit, endings.reason):
        finished = endings.finished[text.tokens]
        finished.started, finished.score = began, text.score
        finished.cached, finished.prefill_ms = sequence.cached, prefill_ms
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
