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
    """
    b = Body()
    heads = b.op("Shape", ["past_key"], start=1, end=2)
    width = b.op("Shape", ["past_key"], start=3, end=4)
    form = b.op("Concat", [b.constant([-1]), b.constant([3]), heads, width], axis=0)
    parts = b.split("Split", [b.op("Reshape", ["qkv", form])], 3, axis=1, num_outputs=3)
    q, k, v = (b.op("Squeeze", [part, b.constant([1])]) for part in parts)  # [T,H,W]
    slots, positions = (
        b.op("Cast", [name], to=TensorProto.INT64) for name in ("slots", "positions")
    )
    places = _places(b, slots, positions, heads)
    _append(b, "past_key", k, places, "present_key")
    _append(b, "past_value", v, places, "present_value")
    first, slot_range = _range_of(b, slots)
    _, position_range = _range_of(b, positions, from_zero=True)
    keys = _seen(b, "present_key", first, slot_range, position_range, [1, 3, 0, 2])  # [H,W,S,C]
    values = _seen(b, "present_value", first, slot_range, position_range, [1, 0, 2, 3])  # [H,S,C,W]
    keys = b.op("Reshape", [keys, b.op("Concat", [heads, width, b.constant([-1])], axis=0)])
    values = b.op("Reshape", [values, b.op("Concat", [heads, b.constant([-1]), width], axis=0)])
    q = b.op("Transpose", [b.op("Mul", [q, b.attribute("scale")])], perm=[1, 0, 2])  # [H,T,W]
    scores = b.op("MatMul", [q, keys])  # [H,T,SC]
    mask = _mask(b, slots, positions, slot_range, position_range)
    scores = b.op("Where", [mask, scores, b.constant(-np.inf, np.float32)])
    mixed = b.op("MatMul", [b.op("Softmax", [scores], axis=-1), values])  # [H,T,W]
    mixed = b.op("Transpose", [mixed], perm=[1, 0, 2])
    merged = b.op("Concat", [b.constant([-1]), b.op("Mul", [heads, width])], axis=0)
    b.op("Reshape", [mixed, merged], "mixed")
    return function("Attention", INPUTS, OUTPUTS, b, ["scale"])


def _places(b: Body, slots: str, positions: str, heads: str) -> str:  # -> [T,H,3]
    """Where each head of each token goes, as indices of slot, head and position."""
    zero, one = b.constant(0), b.constant(1)
    each = b.op("Range", [zero, b.op("Squeeze", [heads]), one])
    tokens = b.op("Concat", [b.op("Shape", [slots]), heads], axis=0)  # [T,H]
    last, column = b.constant([-1]), b.constant([1])
    expanded = (
        b.op("Expand", [index, tokens])
        for index in (
            b.op("Unsqueeze", [slots, column]),
            each,
            b.op("Unsqueeze", [positions, column]),
        )
    )
    indices = [b.op("Unsqueeze", [index, last]) for index in expanded]
    return b.op("Concat", indices, axis=-1)


def _append(b: Body, past: str, new: str, places: str, present: str) -> None:
    b.op("ScatterND", [past, places, b.op("CastLike", [new, past])], present)


def _range_of(b: Body, indices: str, from_zero: bool = False) -> tuple[str, str]:
    """The least of the indices (or 0) as [1], and all from it to the greatest."""
    zero, one = b.constant(0), b.constant(1)
    least = zero if from_zero else b.op("ReduceMin", [indices], keepdims=0)
    end = b.op("Add", [b.op("ReduceMax", [indices], keepdims=0), one])
    return b.op("Unsqueeze", [least, b.constant([0])]), b.op("Range", [least, end, one])


def _seen(b: Body, present: str, first: str, slots: str, positions: str, perm: list[int]) -> str:
    """The part of the present that any of the tokens may see, in float32 and transposed."""
    starts = b.op("Concat", [first, b.constant([0])], axis=0)
    slot_end = b.op("Add", [first, b.op("Shape", [slots])])
    ends = b.op("Concat", [slot_end, b.op("Shape", [positions])], axis=0)
    part = b.op("Slice", [present, starts, ends, b.constant([0, 2])])
    return b.op("Transpose", [b.op("Cast", [part], to=TensorProto.FLOAT)], perm=perm)


def _mask(b: Body, slots: str, positions: str, slot_range: str, position_range: str) -> str:
    """bool [T,SC]: whether a token may see a place."""
    own_slot = b.op("Unsqueeze", [slots, b.constant([1, 2])])  # [T,1,1]
    own_position = b.op("Unsqueeze", [positions, b.constant([1, 2])])
    same = b.op("Equal", [own_slot, b.op("Unsqueeze", [slot_range, b.constant([1])])])  # [T,S,1]
    reached = b.op("LessOrEqual", [position_range, own_position])  # [T,1,C]
    flat = b.op("Concat", [b.op("Shape", [slots]), b.constant([-1])], axis=0)
    return b.op("Reshape", [b.op("And", [same, reached]), flat])
