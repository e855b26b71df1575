"""A checkpoint without the rows that pad its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.sources.checkpoint import EMBEDDING, HEAD, Array, Checkpoint
from gpt2rt_export.sources.wrapped import WrappedCheckpoint


@dataclass(frozen=True, slots=True)
class TrimmedCheckpoint(WrappedCheckpoint):
    """`whole` with only the first `n_vocab` rows of its token embedding and lm_head.

    Trainers pad a vocabulary for speed; a row without a token must never be drawn.
    """

    n_vocab: int

    @property
    def hparams(self) -> HParams:
        return replace(self.whole.hparams, n_vocab=self.n_vocab)

    @property
    def notes(self) -> Sequence[str]:
        rows = self.whole.hparams.n_vocab
        more = f"Leave out {rows - self.n_vocab:,} of the {rows:,} rows of the token embedding: "
        return [*self.whole.notes, f"{more}the tokenizer ends before them"]

    def read(self, name: str) -> Array:
        values = self.whole.read(name)
        return values[: self.n_vocab] if name in (EMBEDDING, HEAD) else values


def trimmed(checkpoint: Checkpoint, n_vocab: int) -> Checkpoint:
    """`checkpoint` with at most `n_vocab` tokens."""
    more = checkpoint.hparams.n_vocab > n_vocab
    return TrimmedCheckpoint(checkpoint, n_vocab) if more else checkpoint
