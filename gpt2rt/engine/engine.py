"""Steps over a batch of token sequences, each in a slot: any mixture of prompts and new tokens.

Running sequences always fill the slots 0, 1, ..., so that a device can replay a decode step.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from gpt2rt.engine.prefixes import BLOCK, PrefixCache
from gpt2rt.engine.slots import Logits, Part, Slots
from gpt2rt.sampling.selection import Draw, Row, Selected

ALONE = 2  # where no text waits, this many times the budget is read: a token then costs least


@dataclass(slots=True, eq=False)
class Sequence:
    """A running sequence.

    `slot` is its place in the engine, `prompt` the tokens it starts with, `length` the number of
    its positions in the slot; of these the first `cached` were copied from an earlier prompt rather
    than computed. `shares`: whether its prompt is looked up in the prefix cache, and stored there.
    Prompts are read in the order of `due`.
    """

    slot: int
    prompt: tuple[int, ...]
    length: int = 0
    cached: int = 0
    shares: bool = True
    due: int = 0

    @property
    def unread(self) -> bool:
        """Whether tokens of the prompt are still to be read."""
        return self.length < len(self.prompt)

    def part(self, tokens: Seq[int], wanted: int = 1) -> Part:
        """The part of a step that appends `tokens`, with logits after the last `wanted` of them."""
        return Part(self.slot, self.length, tokens, wanted)

    def after(self, row: Row) -> Part:
        """The part of a step that appends the token of a row of the step before."""
        return Part(self.slot, self.length, (0,), after=row)

    def piece(self, most: int) -> Part:
        """The part that reads the prompt on, with logits after its last token."""
        tokens = self.prompt[self.length : self.length + most]
        return self.part(tokens, int(self.length + len(tokens) == len(self.prompt)))


class Engine:
    """Runs up to `slots.count` sequences; prefixes of earlier prompts come from `prefixes`.

    `budget` is the most tokens of prompts in a step beside texts in progress, which wait for it
    (None: that of the slots); where there are none, `ALONE` times as many are read. `prompt_tokens`
    counts the tokens of prompts that were read.
    """

    def __init__(
        self, slots: Slots, prefixes: PrefixCache | None = None, budget: int | None = None
    ) -> None:
        self._slots = slots
        self._prefixes = prefixes
        self.budget = slots.budget if budget is None else budget
        self._running: list[Sequence] = []
        self._steps = 0
        self.prompt_tokens = 0

    @property
    def count(self) -> int:
        """How many sequences can run at a time."""
        return self._slots.count

    @property
    def ahead(self) -> bool:
        """Whether a step may be started before the one before is done (see `Slots`)."""
        return self._slots.ahead

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The running sequences, in the order of their slots."""
        return tuple(self._running)

    @property
    def free(self) -> int:
        """How many more sequences can be started."""
        return self._slots.count - len(self._running)

    def resize(self, slots: Slots) -> None:
        """Move all sequences to other slots, which are at least as many as they."""
        for sequence in self._running:
            if sequence.length:
                kv = self._slots.read(sequence.slot, 0, sequence.length)
                slots.write(sequence.slot, 0, kv)
        self._slots = slots

    def start(self, prompt: Seq[int]) -> Sequence:
        """Start a sequence, whose prompt is then to be read."""
        assert self.free, "no slot is free"
        sequence = Sequence(len(self._running), tuple(prompt), due=self._due(prompt))
        self._running.append(sequence)
        return sequence

    def restart(self, sequence: Sequence, prompt: Seq[int]) -> None:
        """Replace the tokens of a running sequence by `prompt`, which is then to be read."""
        sequence.prompt, sequence.length, sequence.shares = tuple(prompt), 0, False
        sequence.due = self._due(prompt)

    def _due(self, prompt: Seq[int]) -> int:
        """When a prompt that comes now would be read to its end, in tokens, if it were alone.

        A short prompt is due before a long one that came a little earlier, but nothing that comes
        later puts a prompt off for ever (virtual finish times, as of fair queueing in networks).
        """
        return self._steps * self.budget + len(prompt)

    def fork(self, parent: Sequence) -> Sequence:
        """Start a sequence with the tokens of `parent`, by copying keys and values."""
        assert self.free, "no slot is free"
        child = Sequence(len(self._running), parent.prompt, parent.length, parent.length)
        self._slots.copy(parent.slot, child.slot, parent.length)
        self._running.append(child)
        return child

    def replace(self, sequence: Sequence, parent: Sequence) -> None:
        """Replace the tokens of `sequence` by those of `parent`."""
        self._slots.copy(parent.slot, sequence.slot, parent.length)
        sequence.length = parent.length

    def step(self, parts: Seq[Part], draws: Seq[Draw] = ()) -> Logits | Selected:
        """Append the tokens of all parts, each of another running sequence.

        Returns the rows of the wanted tokens, and is valid, as `Slots.step` says. A
        prompt that has been read to its end is stored in the prefix cache.
        """
        rows = self._slots.step(parts, draws)
        self._steps += 1
        for part in parts:
            sequence = self._running[part.slot]
            sequence.length = part.end
            if part.start < len(sequence.prompt):
                self.prompt_tokens += min(part.end, len(sequence.prompt)) - part.start
                if len(sequence.prompt) <= part.end:
                    self._store(sequence)
        return rows

    def pieces(self, sequences: Seq[Sequence]) -> list[Part]:
        """The next tokens of the prompts that are due first, as many as the budget allows.

        They are in the order of their slots. A prompt waits for one before it that begins alike, to
        take its keys and values from the prefix cache.
        """
        parts: list[Part] = []
        beginnings: set[tuple[int, ...]] = set()
        left = self.budget if len(sequences) < len(self._running) else ALONE * self.budget
        for sequence in sorted(sequences, key=lambda sequence: sequence.due):
            if not left:
                break
            if sequence.length == 0 and not self._begin(sequence, beginnings):
                continue
            beginnings.add(self._beginning(sequence))
            if sequence.unread:
                parts.append(sequence.piece(left))
                left -= len(parts[-1].tokens)
        return sorted(parts, key=lambda part: part.slot)

    def read(self, sequences: Seq[Sequence]) -> list[Logits]:
        """Read the prompts of `sequences`; returns the logits [n_vocab] after each of them."""
        found: dict[int, Logits] = {}
        while parts := self.pieces(sequences):
            ended = [part.slot for part in parts if part.wanted]
            found |= zip(ended, np.array(self.step(parts)), strict=True)
        return [found[sequence.slot] for sequence in sequences]

    def rewind(self, sequence: Sequence, length: int) -> None:
        """Cut a running sequence to its first `length` positions."""
        assert length <= sequence.length, "a sequence can only become shorter"
        sequence.length = length

    def finish(self, *sequences: Sequence) -> None:
        """End sequences; as many of those in the last slots as needed move into their slots."""
        ended, count = set(sequences), len(self._running) - len(sequences)
        last, self._running = self._running[count:], self._running[:count]
        holes = (sequence.slot for sequence in self._running if sequence in ended)
        for sequence, hole in zip([of for of in last if of not in ended], list(holes), strict=True):
            self._slots.copy(sequence.slot, hole, sequence.length)
            self._running[hole] = sequence
            sequence.slot = hole
        for freed in range(count, count + len(last)):
            self._slots.copy(freed, freed, 0)  # it is empty now: no device attends to what it held

    def _beginning(self, sequence: Sequence) -> tuple[int, ...]:
        """The first block of the prompt, if it can come from the prefix cache."""
        shared = self._prefixes is not None and sequence.shares
        return sequence.prompt[:BLOCK] if shared and len(sequence.prompt) > BLOCK else ()

    def _begin(self, sequence: Sequence, beginnings: set[tuple[int, ...]]) -> bool:
        """Copy what is cached of a new prompt; False: it waits for a prompt of `beginnings`."""
        if self._prefixes is None or not sequence.shares:
            return True
        beginning = self._beginning(sequence)
        if beginning and beginning in beginnings and not self._prefixes.knows(beginning):
            return False
        for kv in self._prefixes.find(sequence.prompt):
            self._slots.write(sequence.slot, sequence.length, kv)
            sequence.length += kv.shape[-2]
        sequence.cached = sequence.length
        return True

    def _store(self, sequence: Sequence) -> None:
        if self._prefixes is not None and sequence.shares:
            self._prefixes.store(
                sequence.prompt, lambda start, end: self._slots.read(sequence.slot, start, end)
            )
