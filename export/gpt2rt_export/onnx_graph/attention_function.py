"""Attention over new tokens of any slots, as an ONNX function.

T new tokens, each with a slot and a position; S slots of C positions; H heads of width W. A token
sees the positions of its own slot up to its own, those of the same call included.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from gpt2rt_export.onnx_graph.body import Body, function

INPUTS = ["qkv", "slots", "positions", "past_key", "past_value"]
OUTPUTS = ["mixed", "present_key", "present_value"]


def attention() -> onnx.FunctionProto:
    """qkv [T,3HW], slots [T], positions [T], past keys and values [S,H,C,W] -> mixed values [T,HW],
    present keys and values [S,H,C,W], the type of which is that of the past ones.

    Every token attends to every slot from the first to the last in the call; only the result for
    its own slot is kept.
    """
    b = Body()
    heads = b.op("Shape", ["past_key"], start=1, end=2)
    width = b.op("Shape", ["past_key"], start=3, end=4)
    form = b.op("Concat", [b.constant([-1, 3]), heads, width], axis=0)
    parts = b.split("Split", [b.op("Reshape", ["qkv", form])], 3, axis=1, num_outputs=3)
    q, k, v = (b.op("Squeeze", [part, b.constant([1])]) for part in parts)  # [T,H,W]
    slots, positions = (
        b.op("Cast", [name], to=TensorProto.INT64) for name in ("slots", "positions")
    )
    places = _places(b, slots, positions, heads)
    for past, new, present in (("past_key", k, OUTPUTS[1]), ("past_value", v, OUTPUTS[2])):
        b.op("ScatterND", [past, places, b.op("CastLike", [new, past])], present)
    first = b.op("ReduceMin", [slots])  # [1]
    corner = b.op("Concat", [first, b.constant([0])], axis=0)
    last = b.op("Concat", [b.op("ReduceMax", [x]) for x in (slots, positions)], axis=0)
    end = b.op("Add", [last, b.constant([1, 1])])
    keys, values = (_seen(b, present, corner, end) for present in OUTPUTS[1:])  # [S,H,C,W]
    q = b.op("Transpose", [b.op("Mul", [q, b.attribute("scale")])], perm=[1, 0, 2])  # [H,T,W]
    scores = b.op("MatMul", [q, b.op("Transpose", [keys], perm=[0, 1, 3, 2])])  # [S,H,T,C]
    scores = b.op("Where", [_mask(b, positions, keys), scores, b.constant(-np.inf, np.float32)])
    mixed = b.op("MatMul", [b.op("Softmax", [scores], axis=-1), values])  # [S,H,T,W]
    mixed = b.op("Transpose", [mixed], perm=[0, 2, 1, 3])
    mixed = b.op("GatherND", [mixed, _own(b, slots, first)])  # [T,H,W]
    b.op("Reshape", [mixed, b.constant([0, -1])], "mixed")
    return function("Attention", INPUTS, OUTPUTS, b, ["scale"])


def _places(b: Body, slots: str, positions: str, heads: str) -> str:  # -> [T,H,3]
    """Where each head of each token goes, as indices of slot, head and position."""
    column, tokens = b.constant([1]), b.op("Concat", [b.op("Shape", [slots]), heads], axis=0)
    rows = (b.op("Unsqueeze", [index, column]) for index in (slots, positions))
    slot, position = (b.op("Expand", [index, tokens]) for index in rows)  # [T,H]
    head = b.op("Expand", [_range(b, b.op("Squeeze", [heads])), tokens])
    indices = [b.op("Unsqueeze", [index, b.constant([2])]) for index in (slot, head, position)]
    return b.op("Concat", indices, axis=-1)


def _seen(b: Body, present: str, corner: str, end: str) -> str:
    """The slots and positions that any token of the call may see, in float32."""
    part = b.op("Slice", [present, corner, end, b.constant([0, 2])])
    return b.op("Cast", [part], to=TensorProto.FLOAT)


def _mask(b: Body, positions: str, keys: str) -> str:
    """bool [T,C]: whether a position is not after the token's own."""
    count = b.op("Squeeze", [b.op("Shape", [keys], start=2, end=3)])
    own = b.op("Unsqueeze", [positions, b.constant([1])])
    return b.op("LessOrEqual", [_range(b, count), own])


def _own(b: Body, slots: str, first: str) -> str:  # -> [T,2]
    """The slot of each token, counted from the first, and the token."""
    tokens = _range(b, b.op("Squeeze", [b.op("Shape", [slots])]))
    pair = [b.op("Sub", [slots, first]), tokens]
    column = b.constant([1])
    return b.op("Concat", [b.op("Unsqueeze", [x, column]) for x in pair], axis=1)


def _range(b: Body, count: str) -> str:
    return b.op("Range", [b.constant(0), count, b.constant(1)])
