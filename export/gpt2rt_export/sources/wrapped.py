"""A checkpoint made from another one: what is not overridden is as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles.hparams import HParams
from gpt2rt_export.sources.checkpoint import Array, Checkpoint


@dataclass(frozen=True, slots=True)
class WrappedCheckpoint:
    """`whole` under another name, to be overridden in part."""

    whole: Checkpoint

    @property
    def hparams(self) -> HParams:
        return self.whole.hparams

    @property
    def origin(self) -> str:
        return self.whole.origin

    @property
    def tokenizer(self) -> Path | None:
        return self.whole.tokenizer

    @property
    def files(self) -> Sequence[Path]:
        return self.whole.files

    @property
    def unused(self) -> Sequence[str]:
        return self.whole.unused

    @property
    def notes(self) -> Sequence[str]:
        return self.whole.notes

    @property
    def identity(self) -> str:
        return self.whole.identity

    def read(self, name: str) -> Array:
        return self.whole.read(name)
