"""The precisions of a bundle's weights, each with all that the runtime has to know of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """How a bundle's weights are kept.

    `bytes` is what one weight takes at most, with scales and what stays in float32. `rowwise`: on a
    CPU its kernel for one row sums in another order than the one for several, so that each row of
    a step has to be a call of its own. `cuda`: whether there is a graph for CUDA.
    """

    name: str
    bytes: float
    rowwise: bool = False
    cuda: bool = False


# Best first where a model's name says nothing about the precision.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("int8", 1.3),
        Precision("fp32", 4.0),
        Precision("fp16", 2.2, cuda=True),
        Precision("int4", 0.95, rowwise=True, cuda=True),
    )
}
