"""Functions on an ONNX Runtime session: run it, compare it with the interface of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import INTERFACES, Port, embedding
from gpt2rt.errors import BadBundle, Gpt2rtError

if TYPE_CHECKING:
    import onnxruntime as ort

TYPES = {
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bool": "tensor(bool)",
}


def run(
    session: ort.InferenceSession, names: list[str], feeds: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Run the graph on `feeds`; returns the outputs `names`, in order. Raises `BadBundle`."""
    try:
        return list(session.run(names, feeds))
    except Gpt2rtError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise run_failure(error) from error


def run_failure(error: Exception) -> BadBundle:
    """The error to raise for an error of ONNX Runtime, whose message becomes one line."""
    reason = " ".join(str(error).split())[:300]
    return BadBundle(f"ONNX Runtime cannot run the graph ({reason}); export the bundle again")


def interface_mismatch(
    session: ort.InferenceSession, hparams: HParams, kind: str, kv: str
) -> str | None:
    """An input or output that is not as in a graph of this `kind`, `hparams` and `kv`; None: all
    are."""
    graph = INTERFACES[kind](hparams, kv)
    return _mismatch(session.get_inputs(), graph.inputs) or _mismatch(
        session.get_outputs(), graph.outputs
    )


def hidden_interface_mismatch(
    session: ort.InferenceSession, hparams: HParams, graph: str, kv: str
) -> str | None:
    """As `interface_mismatch`, for the outputs of the embedding graph beside such a `graph`."""
    return _mismatch(session.get_outputs(), embedding(hparams, graph, kv).outputs)


def kv_type(session: ort.InferenceSession) -> str:
    """The dtype of keys and values in a fused or CUDA graph."""
    types = {node.type for node in session.get_inputs() if node.name.startswith("past_key.")}
    return next((name for name, type in TYPES.items() if type in types), "float32")


def _mismatch(found: Sequence[ort.NodeArg], wanted: Sequence[Port]) -> str | None:
    nodes = {node.name: node for node in found}
    if odd := sorted(set(nodes) ^ {port.name for port in wanted}):
        return odd[0]
    for port in wanted:
        node = nodes[port.name]
        if node.type != TYPES[port.dtype] or not _fits(node.shape, port):
            return f"{port.name} {node.type} {node.shape}"
    return None


def _fits(shape: Sequence[int | str | None], port: Port) -> bool:
    """Whether the sizes equal the port's; a size that is variable in either is ignored."""
    same_rank = len(shape) == len(port.shape)
    return same_rank and all(
        found == wanted or not (isinstance(found, int) and isinstance(wanted, int))
        for found, wanted in zip(shape, port.shape, strict=True)
    )
