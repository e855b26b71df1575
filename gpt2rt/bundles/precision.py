"""The precisions that a bundle's weights can have, and what the runtime needs to know of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """How a bundle stores its weights.

    `bytes` is the most that a weight takes on average, including scales and what stays in float32.
    `kv` is the type of keys and values on a CPU unless an export chooses another. `cuda`: whether
    there is a graph for CUDA.
    """

    name: str
    bytes: float
    kv: str = "fp16"
    cuda: bool = False


# The types that keys and values can have, and NumPy's names of them.
KV_TYPES = {"fp16": "float16", "fp32": "float32"}

# In order of preference, for a model's name without a precision.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("int8", 1.3, cuda=True),
        Precision("fp32", 4.0, kv="fp32"),
        Precision("fp16", 2.2, cuda=True),
        Precision("int4", 0.95, cuda=True),
    )
}
