"""The files that an ONNX graph reads weights from, found without loading the graph.

Any tensor may name any file of the machine: a tensor of the graph, of an attribute, of a graph
within an attribute, of a function. So a graph is checked before ONNX Runtime opens it. The format:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator

from gpt2rt.bundles.protobuf import fields

# Messages of onnx.proto that can contain a tensor: field number -> the message in the field.
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
LOCATION = b"location"  # the key of an entry that names a file


def locations(model: bytes, kind: int = MODEL) -> Iterator[bytes]:
    """The `location` of every external tensor in a serialised ONNX model.

    Parts without that word, which are most, are not looked into. Raises `ValueError` if it is not a
    protobuf message, `RecursionError` if graphs are nested too deeply.
    """
    if kind == ENTRY:
        found = list(fields(model))  # protobuf takes the last of repeated fields; here all count
        if (1, LOCATION) in found:
            yield from (value for number, value in found if number == 2 and type(value) is bytes)
        return
    holds = HOLDS[kind]
    for number, value in fields(model):
        if number in holds and type(value) is bytes and LOCATION in value:
            yield from locations(value, holds[number])
