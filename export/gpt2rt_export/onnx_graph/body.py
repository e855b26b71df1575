"""Collects the nodes of an ONNX function, and makes the function of them.

The functions have a domain of their own. ONNX Runtime runs a kernel of that domain, name and
version where one is registered; else it puts the nodes in the function's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from gpt2rt_export.onnx_graph.weights import Array

DOMAIN = "gpt2rt"
VERSION = 1
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own ops
OPSET = 21  # the newest that ONNX Runtime 1.20 reads; what tf2onnx wrote means the same in it
KINDS = {"epsilon": AttributeProto.FLOAT, "scale": AttributeProto.FLOAT}  # others are whole numbers


class Body:
    """The nodes of a function so far. Names inside are numbered, as nobody outside sees them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: int | str = 1,
        domain: str = "",
        refs: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """Append a node; returns the name of its (first) output.

        `outputs`: how many it has, or the name of the only one. `refs`: attributes that the node
        takes from the function's attributes of the same names.
        """
        names = self._names(outputs)
        node = helper.make_node(kind, inputs, names, domain=domain, **attributes)
        node.attribute.extend(_reference(name, name) for name in refs)
        self.nodes.append(node)
        return names[0]

    def split(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Append a node with `count` outputs; returns their names."""
        self.op(kind, inputs, count, **attributes)
        return list(self.nodes[-1].output)

    def constant(self, value: float | Sequence[int] | Array, dtype: type = np.int64) -> str:
        """Append a constant; returns its name."""
        return self.op("Constant", [], value=numpy_helper.from_array(np.array(value, dtype)))

    def attribute(self, name: str) -> str:
        """Append a constant float32 with the value of the function's attribute `name`."""
        result = self.op("Constant", [])
        self.nodes[-1].attribute.append(_reference("value_float", name))
        return result

    def size(self, name: str) -> str:
        """Append a constant int64 [1] with the value of the function's attribute `name`."""
        number = self.op("Constant", [])
        self.nodes[-1].attribute.append(_reference("value_int", name))
        return self.op("Unsqueeze", [number, self.constant([0])])

    def _names(self, outputs: int | str) -> list[str]:
        if isinstance(outputs, str):
            return [outputs]
        return [f"{len(self.nodes)}.{i}" for i in range(outputs)]


def _reference(name: str, source: str) -> AttributeProto:
    return AttributeProto(
        name=name, type=KINDS.get(source, AttributeProto.INT), ref_attr_name=source
    )


def function(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    body: Body,
    attributes: Sequence[str] = (),
) -> onnx.FunctionProto:
    """The function of a body, in which inputs, outputs and attributes have these names."""
    return helper.make_function(
        DOMAIN, name, inputs, outputs, body.nodes, opsets(functions=False), attributes
    )


def opsets(functions: bool) -> list[onnx.OperatorSetIdProto]:
    """The sets of ops that nodes are from, `functions` of our own among them or not."""
    found = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return [*found, helper.make_opsetid(DOMAIN, VERSION)] if functions else found
