"""The external files of ONNX messages: every field of onnx.proto that can hold a tensor."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import helper

from gpt2rt.bundles import external_data
from gpt2rt.bundles.external_data import locations


def tensor(place: str) -> onnx.TensorProto:
    """A tensor with its values in the file `place`."""
    found = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    for key, value in (("offset", "0"), ("location", place), ("length", "4")):
        found.external_data.add(key=key, value=value)
    return found


def sparse(place: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor(place), indices=tensor(f"{place}.indices"))


def graph(*nodes: onnx.NodeProto, **fields: object) -> onnx.GraphProto:
    return onnx.GraphProto(name="g", node=nodes, **fields)


def node(**attribute: object) -> onnx.NodeProto:
    found = helper.make_node("If", ["a"], ["b"], name="n", alpha=-1, names=["x", "y"], beta=0.5)
    found.attribute.append(onnx.AttributeProto(name="c", **attribute))
    return found


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: onnx.ModelProto(graph=graph(initializer=[tensor("x")])),
    "sparse": lambda: onnx.ModelProto(graph=graph(sparse_initializer=[sparse("x")])),
    "constant": lambda: onnx.ModelProto(graph=graph(node(t=tensor("x")))),
    "constants": lambda: onnx.ModelProto(graph=graph(node(tensors=[tensor("x")]))),
    "sparse constant": lambda: onnx.ModelProto(graph=graph(node(sparse_tensor=sparse("x")))),
    "sparse constants": lambda: onnx.ModelProto(graph=graph(node(sparse_tensors=[sparse("x")]))),
    "nested graph": lambda: onnx.ModelProto(
        graph=graph(node(g=graph(node(g=graph(initializer=[tensor("x")])))))
    ),
    "nested graphs": lambda: onnx.ModelProto(
        graph=graph(node(graphs=[graph(), graph(node(t=tensor("x")))]))
    ),
    "function": lambda: onnx.ModelProto(
        functions=[onnx.FunctionProto(name="f", node=[node(t=tensor("x"))])]
    ),
    "default of a function": lambda: onnx.ModelProto(
        functions=[
            onnx.FunctionProto(attribute_proto=[onnx.AttributeProto(name="a", t=tensor("x"))])
        ]
    ),
    "training": lambda: onnx.ModelProto(
        training_info=[onnx.TrainingInfoProto(algorithm=graph(initializer=[tensor("x")]))]
    ),
}


@pytest.mark.parametrize("where", MODELS)
def test_a_place_is_found_wherever_a_tensor_may_lie(where: str) -> None:
    found = list(locations(MODELS[where]().SerializeToString()))
    assert found[0] == b"x"
    assert set(found) <= {b"x", b"x.indices"}


KINDS = {
    external_data.MODEL: onnx.ModelProto,
    external_data.GRAPH: onnx.GraphProto,
    external_data.NODE: onnx.NodeProto,
    external_data.ATTRIBUTE: onnx.AttributeProto,
    external_data.FUNCTION: onnx.FunctionProto,
    external_data.TRAINING: onnx.TrainingInfoProto,
    external_data.SPARSE: onnx.SparseTensorProto,
    external_data.TENSOR: onnx.TensorProto,
}


def test_no_field_of_onnx_that_leads_to_a_tensor_is_left_out() -> None:
    """By the library's own schema: a newer one with a new field fails here."""
    names = {message.DESCRIPTOR.name for message in KINDS.values()}
    for kind, message in KINDS.items():
        leading = {
            field.number
            for field in message.DESCRIPTOR.fields
            if field.message_type and field.message_type.name in names
        }
        assert leading <= set(external_data.HOLDS[kind])


def test_a_place_that_is_told_twice_counts_both_times() -> None:
    """Readers of protobuf take the last one, or merge them."""
    one, other = (
        onnx.StringStringEntryProto(key=k, value=v) for k, v in (("location", "x"), ("offset", "y"))
    )
    raw = one.SerializeToString() + other.SerializeToString()
    entry = b"\x6a" + bytes([len(raw)]) + raw  # field 13
    model = onnx.ModelProto(graph=graph(initializer=[onnx.TensorProto(name="w")]))
    data = model.graph.initializer[0].SerializeToString() + entry
    outer = b"\x2a" + bytes([len(data)]) + data  # field 5
    assert list(locations(b"\x3a" + bytes([len(outer)]) + outer)) == [b"x", b"y"]


@pytest.mark.parametrize("data", [b"\x3a\x05\x01", b"\x3b", b"\xff" * 20, b"\x3a\x80"])
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="byte"):
        list(locations(data))
