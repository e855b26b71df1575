"""The precisions that a bundle's weights can have, and what the runtime needs to know of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """How a bundle stores its weights.

    `bytes` is the most that a weight takes on average, including scales and what stays in float32.
    `kv` is the type of keys and values on a CPU unless an export chooses another.
    `rounded_on_cuda`: whether CUDA, which computes in float16, loses what it was chosen for.
    """

    name: str
    bytes: float
    kv: str = "fp16"
    rounded_on_cuda: bool = False

    @property
    def on_cuda(self) -> str:
        """The precision that the bundle has on CUDA, in whose limits it stays there."""
        return "fp16" if self.rounded_on_cuda else self.name


# The types that keys and values can have, and NumPy's names of them.
KV_TYPES = {"fp16": "float16", "fp32": "float32"}

# In order of preference, for a model's name without a precision.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("int8", 1.3),
        Precision("fp32", 4.1, kv="fp32", rounded_on_cuda=True),
        Precision("fp16", 2.2),
        Precision("int4", 0.95),
    )
}
