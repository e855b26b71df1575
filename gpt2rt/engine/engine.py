"""Token steps for many sequences at once: who sits in which slot, prefill, decode.

Knows tokens, not text. Running sequences always fill the slots 0, 1, ..., so a decode step is one
call over a contiguous run of the KV buffers.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from gpt2rt.engine.prefixes import PrefixCache
from gpt2rt.engine.slots import Logits, Slots
from gpt2rt.sampling.selection import Draw, Selected


@dataclass(slots=True, eq=False)
class Sequence:
    """A running sequence: its slot, the positions it holds there, and how many of its first were
    taken over from a prompt read before.
    """

    slot: int
    length: int = 0
    cached: int = 0


class Engine:
    """Runs up to `slots.count` sequences side by side; beginnings read before come from `prefixes`.

    Logits that a method returns are good until the next call of any.
    """

    def __init__(self, slots: Slots, prefixes: PrefixCache | None = None) -> None:
        self._slots = slots
        self._prefixes = prefixes
        self._running: list[Sequence] = []

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The running sequences, in the order of their slots."""
        return tuple(self._running)

    @property
    def free(self) -> int:
        """Sequences that may still be started."""
        return self._slots.count - len(self._running)

    def start(self, tokens: Seq[int]) -> tuple[Sequence, Logits]:
        """Prefill a new sequence; returns it and the logits [n_vocab] after its last token."""
        assert self.free, "no slot is free"
        sequence = Sequence(len(self._running))
        if self._prefixes is not None:
            for kv in self._prefixes.find(tokens):
                self._slots.write(sequence.slot, sequence.length, kv)
                sequence.length += kv.shape[-2]
        sequence.cached = sequence.length
        logits = self._slots.extend(sequence.slot, sequence.length, tokens[sequence.length :])[0]
        sequence.length = len(tokens)
        self._running.append(sequence)
        if self._prefixes is not None:
            self._prefixes.keep(tokens, lambda a, b: self._slots.read(sequence.slot, a, b))
        return sequence, logits

    def restart(self, sequence: Sequence, tokens: Seq[int]) -> Logits:
        """Make `tokens` all that a running sequence holds; returns the logits [n_vocab] after."""
        sequence.length = len(tokens)
        logits: Logits = self._slots.extend(sequence.slot, 0, tokens)[0]
        return logits

    def fork(self, parent: Sequence) -> Sequence:
        """Another sequence with the same past, without computing it again."""
        assert self.free, "no slot is free"
        child = Sequence(len(self._running), parent.length, parent.length)
        self._slots.copy(parent.slot, child.slot, parent.length)
        self._running.append(child)
        return child

    def replace(self, sequence: Sequence, parent: Sequence) -> None:
        """Give up what `sequence` holds for what `parent` does."""
        self._slots.copy(parent.slot, sequence.slot, parent.length)
        sequence.length = parent.length

    def step(self, tokens: Seq[int], draws: Seq[Draw] = ()) -> Logits | Selected:
        """One more token for every running sequence, in the order of `running`.

        Returns logits [len(tokens), n_vocab]; from a device what was selected there, where the next
        tokens are also drawn by `draws`.
        """
        assert len(tokens) == len(self._running), "every running sequence takes part in a step"
        lengths = [sequence.length for sequence in self._running]
        logits = self._slots.advance(lengths, tokens, draws)
        for sequence in self._running:
            sequence.length += 1
        return logits

    def read(self, sequence: Sequence, tokens: Seq[int]) -> Logits:
        """Several more tokens for one running sequence; the logits [len(tokens), n_vocab] after
        each.
        """
        rows = range(len(tokens))
        logits = self._slots.extend(sequence.slot, sequence.length, tokens, rows)
        sequence.length += len(tokens)
        return logits

    def rewind(self, sequence: Sequence, length: int) -> None:
        """Forget all but the first `length` positions of a running sequence."""
        assert length <= sequence.length, "a sequence cannot be rewound to what it has not read"
        sequence.length = length

    def finish(self, sequence: Sequence) -> None:
        """End a sequence; the last one moves into its slot, so that no gap is left."""
        last = self._running.pop()
        if last is not sequence:
            self._slots.copy(last.slot, sequence.slot, last.length)
            self._running[sequence.slot] = last
            last.slot = sequence.slot
