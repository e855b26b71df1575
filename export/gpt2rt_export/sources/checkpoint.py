"""The interface of a checkpoint, and checks that all formats share."""

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
    """A model's weights under OpenAI's names, read one variable at a time."""

    @property
    def hparams(self) -> HParams: ...

    @property
    def origin(self) -> str:
        """Where the weights are, for messages."""

    @property
    def tokenizer(self) -> Path | None:
        """The directory of the tokenizer's files; None where the format has none."""

    @property
    def files(self) -> Sequence[Path]:
        """The files of the weights; empty where they are not in files."""

    @property
    def unused(self) -> Sequence[str]:
        """The names, in the files, of arrays that are not used."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the user on how it was read: arrays left out, zeros, other names."""

    @property
    def identity(self) -> str:
        """A text for the manifest that is the same for the same weights, wherever they are."""

    def read(self, name: str) -> Array:
        """The variable `name` in the shape of `HParams.variables`, float32."""


def differences(
    hparams: HParams,
    found: Mapping[str, Shape],
    own_name: Callable[[str], str] = lambda name: name,
    own_shape: Callable[[Shape], Shape] = lambda shape: shape,
) -> list[str]:
    """A sentence for each variable of `hparams` that `found` lacks or has in another shape, and for
    blocks beyond `n_layer`.

    `found`: name -> shape. `own_name` and `own_shape` turn OpenAI's names and shapes into those of
    `found`.
    """
    wrong = []
    blocks = [int(m[1]) for m in map(BLOCK.search, found) if m]
    last = max(blocks, default=0)
    if blocks and last != hparams.n_layer - 1:
        wrong.append(f"blocks up to h{last} where n_layer is {hparams.n_layer}")
    # A damaged n_layer may be huge: one block more than the files have shows that some are missing.
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
    """`hparams`, untied where the arrays have an lm_head that differs from the token embedding.

    OpenAI's `hparams.json` has no field for it, so the arrays decide.
    """
    if not hparams.tied or HEAD not in found or EMBEDDING not in found:
        return hparams
    tied = found[HEAD] == found[EMBEDDING] and np.array_equal(read(HEAD), read(EMBEDDING))
    return hparams if tied else replace(hparams, tied=False)


def left_out(names: Iterable[str]) -> list[str]:
    """A note that names arrays that are not used, such as an optimiser's; empty for no names."""
    some = sorted(names)
    more = f" and {len(some) - 9:,} more" if len(some) > 9 else ""
    return [f"Leave out {', '.join(some[:9])}{more}: no part of the model"] if some else []


def unused(hparams: HParams, found: Iterable[str]) -> list[str]:
    """The names of arrays that are no variables; a tied lm_head, a copy of wte, counts as one."""
    return sorted(set(found) - set(hparams.variables()) - {HEAD})


# Names of tensors of other families of models, the most specific first.
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
    """The other family of models that has tensors of these names, in words; "" if unknown."""
    names = list(names)
    for pattern, what in FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return what
    return ""


def first_line(error: Exception) -> str:
    """The first line of a library's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
