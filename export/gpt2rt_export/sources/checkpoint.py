"""What every origin has in common: the checkpoint itself, and how it is held against its shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams

Array = NDArray[np.float32]
Shape = tuple[int, ...]

HEAD, EMBEDDING = "model/lm_head", "model/wte"
BLOCK = re.compile(r"(?:^|[/.])h[/.]?(\d{1,9})[/.]")


class Checkpoint(Protocol):
    """A model's weights under OpenAI's names.

    `origin` is where they are, for messages; `identity` is what they are, for the manifest.
    """

    @property
    def hparams(self) -> HParams: ...

    @property
    def origin(self) -> str: ...

    @property
    def tokenizer(self) -> Path | None:
        """The directory that holds the tokenizer's files, where the origin has one."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that hold the weights, where they are in files."""

    @property
    def unused(self) -> Sequence[str]:
        """The arrays in the files that are no variables, by their names there."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of how it was read: arrays left out, zeros, other names."""

    @property
    def identity(self) -> str:
        """Tells these weights from others, wherever they lie."""

    def read(self, name: str) -> Array:
        """The variable `name` in the shape of `HParams.variables`, float32."""


def differences(
    hparams: HParams,
    found: Mapping[str, Shape],
    own_name: Callable[[str], str] = lambda name: name,
    own_shape: Callable[[Shape], Shape] = lambda shape: shape,
) -> list[str]:
    """What `found` lacks of the variables that `hparams` promises, and blocks beyond them.

    `own_name` and `own_shape` turn OpenAI's names and shapes into those of `found`.
    """
    wrong = []
    blocks = [int(m[1]) for m in map(BLOCK.search, found) if m]
    last = max(blocks, default=0)
    if blocks and last != hparams.n_layer - 1:
        wrong.append(f"blocks up to h{last} where n_layer is {hparams.n_layer}")
    # Numbers may be huge: of one block more than there are different ones, one is missing.
    known = replace(hparams, n_layer=min(hparams.n_layer, last + 1, len(set(blocks)) + 1))
    for variable, promised in known.variables().items():
        name, shape = own_name(variable), own_shape(promised)
        if name not in found:
            wrong.append(f"{name} missing")
        elif found[name] != shape:
            wrong.append(f"{name} is {list(found[name])}, not {list(shape)}")
    return wrong


def with_own_head(
    hparams: HParams, found: Mapping[str, Shape], read: Callable[[str], Array]
) -> HParams:
    """`hparams`, untied where the arrays have a head unlike the token embedding.

    OpenAI's `hparams.json` has no word for it, so the arrays decide.
    """
    if not hparams.tied or HEAD not in found or EMBEDDING not in found:
        return hparams
    tied = found[HEAD] == found[EMBEDDING] and np.array_equal(read(HEAD), read(EMBEDDING))
    return hparams if tied else replace(hparams, tied=False)


def left_out(names: Iterable[str]) -> list[str]:
    """A note that names arrays which are not used, such as an optimiser's; none where all are."""
    some = sorted(names)
    more = f" and {len(some) - 9:,} more" if len(some) > 9 else ""
    return [f"Leave out {', '.join(some[:9])}{more}: no part of the model"] if some else []


def unused(hparams: HParams, found: Iterable[str]) -> list[str]:
    """The arrays that are no variables; a tied head is the embedding once more."""
    return sorted(set(found) - set(hparams.variables()) - {HEAD})


# How the tensors of other families are called, most telling first.
FAMILIES = (
    (r"(^|\.)model\.decoder\.layers\.", "OPT or BART"),
    (r"(^|\.)(encoder|decoder)[./]block", "T5"),
    (r"(^|\.)gpt_neox\.", "GPT-NeoX or Pythia"),
    (r"\.attn\.attention\.", "GPT-Neo"),
    (r"(^|\.)transformer\.h\.\d+\.attn\.[qkv]_proj", "GPT-J"),
    (r"\.self_attention\.query_key_value", "BLOOM or Falcon"),
    (r"(^|\.)layers\.\d+\.self_attn\.", "Llama or a relative (Mistral, Qwen, Gemma, Phi)"),
    (r"(^|\.)backbone\.layers\.\d+\.mixer", "Mamba"),
    (r"^(distil|ro|al)?bert[./]|^electra[./]", "BERT or a relative"),
    (r"lora_[AB]\.", "a LoRA adapter"),
)


def family(names: Iterable[str]) -> str:
    """What else the tensors are, in words for a message; nothing where they tell nothing."""
    names = list(names)
    for pattern, what in FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return what
    return ""


def first_line(error: Exception) -> str:
    """A library's error in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
