"""Reads variables from tensors under Transformers' names, and checks them against the shape.

The names and shapes are OpenAI's in another spelling: `transformer.h.0.attn.c_attn.weight`, [in,
out], for `model/h0/attn/c_attn/w`. The files of the tensors are opened elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.checkpoint import Array, Shape, differences, family, left_out
from gpt2rt_export.sources.naming import (
    absent_biases,
    body_prefix,
    other_parts,
    plain_names,
    wrapper_words,
)

HEAD = "lm_head.weight"
# Saved beside the variables, and no part of the language model.
IGNORED = (".attn.bias", ".attn.masked_bias", "multiple_choice_head.")
DTYPES = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file: its shape, its type by safetensors' name, how to get its values."""

    shape: Shape
    dtype: str
    values: Callable[[], NDArray[Any]]


class StateDict:
    """The tensors of a GPT-2 by their names.

    `says` names the file or field that gives the shape, for messages; `transposed`: the weights of
    linear layers are [out, in].

    Raises `BadCheckpoint` for tensors missing, misshapen or unknown, all at once.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        hparams: HParams,
        origin: str,
        says: str,
        transposed: bool = False,
    ) -> None:
        self._own = plain_names(tensors, origin)
        self._tensors = {name: tensors[own] for name, own in self._own.items()}
        self._hparams = hparams
        self._transposed = transposed
        self._body = body_prefix(self._tensors)
        self._other_parts = other_parts(self._tensors, self._body)
        shapes = {name: self._shape(name) for name in self._tensors}
        # A damaged n_layer may be huge; no more blocks than tensors can have biases.
        known = replace(hparams, n_layer=min(hparams.n_layer, len(shapes)))
        names = {variable: self._name(variable) for variable in known.variables()}
        self._zeros = absent_biases(known, shapes, names)
        for variable in self._zeros:
            shapes[names[variable]] = known.variables()[variable][-2:]
        wrong = differences(hparams, shapes, self._name, lambda shape: shape[-2:])
        wrong = wrong or self._unexpected()
        if wrong and (other := family(tensors)):
            raise BadCheckpoint(f"{origin}: the tensors are of another family: {other}")
        if wrong:
            some = "; ".join(wrong[:40]) + ("; ..." if len(wrong) > 40 else "")
            raise BadCheckpoint(f"{origin}: the tensors are not what {says} says: {some}")

    def _name(self, variable: str) -> str:
        """`model/h0/attn/c_attn/w` -> `transformer.h.0.attn.c_attn.weight`."""
        block, *parts = variable.removeprefix("model/").split("/")
        if block == "lm_head":
            return HEAD
        path = ["h", block[1:]] if block[1:].isdigit() else [block]
        end = {"b": "bias"}.get(parts[-1] if parts else "", "weight")
        return self._body + ".".join([*path, *parts[:-1], end])

    def is_transposed(self, name: str) -> bool:
        """Whether a tensor is the weights of a linear layer, stored as [out, in]."""
        return self._transposed and ".c_" in name and len(self._tensors[name].shape) == 2

    def _shape(self, name: str) -> Shape:
        shape = self._tensors[name].shape
        return shape[::-1] if self.is_transposed(name) else shape

    def _unexpected(self) -> list[str]:
        """A sentence for each tensor that no GPT-2 has or whose type is not floating point."""
        known = {HEAD, *self._other_parts, *map(self._name, self._hparams.variables())}
        wrong = []
        for name, tensor in sorted(self._tensors.items()):
            if name in self._other_parts:
                continue
            if name not in known and not any(part in name for part in IGNORED):
                wrong.append(f"{self._own[name]} is no part of a GPT-2")
            elif name in known and tensor.dtype not in DTYPES:
                wrong.append(
                    f"{self._own[name]} is of type {tensor.dtype}, not {', '.join(sorted(DTYPES))}"
                )
        return wrong

    @property
    def has_own_head(self) -> bool:
        """Whether there is an lm_head that differs from the token embedding."""
        if HEAD not in self._tensors:
            return False
        head, embedding = self._tensors[HEAD], self._tensors[self._name("wte")]
        return not (
            head.shape == embedding.shape and np.array_equal(head.values(), embedding.values())
        )

    @property
    def unused(self) -> list[str]:
        """The names, in the file, of tensors that are no variables."""
        known = {HEAD, *map(self._name, self._hparams.variables())}
        return sorted(own for name, own in self._own.items() if name not in known)

    @property
    def notes(self) -> list[str]:
        """Sentences for the user on how the tensors were read."""
        notes = []
        if words := wrapper_words(self._own):
            notes.append(f"Pass over {', '.join(words)} in the names: a wrapper's words")
        heads = [self._own[n] for n in self._other_parts if not any(part in n for part in IGNORED)]
        notes += left_out(heads)
        if self._zeros:
            kinds = {"norms" if "/ln_" in name else "layers" for name in self._zeros}
            notes.append(f"The {' and '.join(sorted(kinds))} have no biases: zeros stand for them")
        return notes

    def read(self, variable: str) -> Array:
        """A variable in the shape of `HParams.variables`, float32."""
        shape = self._hparams.variables()[variable]
        if variable in self._zeros:
            return np.zeros(shape, np.float32)
        name = self._name(variable)
        values = self._tensors[name].values().astype(np.float32, copy=False)
        values = values.T if self.is_transposed(name) else values
        return np.asarray(values.reshape(shape), np.float32)
