"""The precisions that a bundle's weights can have, and what the runtime needs to know of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """How a bundle stores its weights.

    `bytes` is the most that a weight takes on average, including scales and what stays in float32.
    `rowwise`: the CPU kernel for one row sums in another order than the kernel for several, so each
    row of a step has to be a call of its own to give the same bits in any batch. `cuda`: whether
    there is a graph for CUDA.
    """

    name: str
    bytes: float
    rowwise: bool = False
    cuda: bool = False


# In order of preference, for a model's name without a precision.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("int8", 1.3),
        Precision("fp32", 4.0),
        Precision("fp16", 2.2, cuda=True),
        Precision("int4", 0.95, rowwise=True, cuda=True),
    )
}
