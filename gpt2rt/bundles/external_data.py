"""The files that an ONNX graph takes weights from, found without ONNX and before ONNX Runtime.

A graph may name any file of the machine, in any tensor: of the graph, of an attribute, of a graph
within an attribute, of a function. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator

from gpt2rt.bundles.protobuf import fields

# Messages of onnx.proto that can hold a tensor: by the field's number, what the field holds.
MODEL, GRAPH, NODE, ATTRIBUTE, FUNCTION, TRAINING, SPARSE, TENSOR, ENTRY = range(9)
HOLDS = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    TRAINING: {1: GRAPH, 2: GRAPH},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {13: ENTRY},
}


def locations(model: bytes, kind: int = MODEL) -> Iterator[bytes]:
    """Every place of external data in a serialised model, as it stands there.

    Raises `ValueError` for what is no protobuf message, `RecursionError` for graphs within graphs
    beyond measure.
    """
    if kind == ENTRY:
        found = list(fields(model))  # a field that is there twice counts once, which is not for us
        if (1, b"location") in found:
            yield from (value for number, value in found if number == 2 and type(value) is bytes)
        return
    holds = HOLDS[kind]
    for number, value in fields(model):
        if number in holds and type(value) is bytes:
            yield from locations(value, holds[number])
