"""ONNX Runtime's session of a graph: held against its interface, and run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import INTERFACES, Port, hidden
from gpt2rt.errors import BadBundle, Gpt2rtError

if TYPE_CHECKING:
    import onnxruntime as ort

TYPES = {
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
}


def run(
    session: ort.InferenceSession, names: list[str], feeds: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """The outputs `names`. Raises `BadBundle`."""
    try:
        return list(session.run(names, feeds))
    except Gpt2rtError:
        raise
    except Exception as error:  # ONNX Runtime's have no common base
        raise failed(error) from error


def failed(error: Exception) -> BadBundle:
    """ONNX Runtime's error in one line."""
    reason = " ".join(str(error).split())[:300]
    return BadBundle(f"ONNX Runtime cannot run the graph ({reason}); export the bundle again")


def misfit(session: ort.InferenceSession, hparams: HParams, kind: str) -> str | None:
    """An input or output that a graph of this `kind` and shape has otherwise; None: all fit."""
    graph = INTERFACES[kind](hparams)
    return _misfit(session.get_inputs(), graph.inputs) or _misfit(
        session.get_outputs(), graph.outputs
    )


def hidden_misfit(session: ort.InferenceSession, hparams: HParams, graph: str) -> str | None:
    """As `misfit`, for the outputs of the embedding graph that belongs to such a `graph`."""
    return _misfit(session.get_outputs(), hidden(hparams, graph))


def _misfit(found: Sequence[ort.NodeArg], wanted: Sequence[Port]) -> str | None:
    nodes = {node.name: node for node in found}
    if odd := sorted(set(nodes) ^ {port.name for port in wanted}):
        return odd[0]
    for port in wanted:
        node = nodes[port.name]
        if node.type != TYPES[port.dtype] or not _fits(node.shape, port):
            return f"{port.name} {node.type} {node.shape}"
    return None


def _fits(shape: Sequence[int | str | None], port: Port) -> bool:
    """Whether sizes are the port's; one that either leaves open fits whatever it is."""
    same_rank = len(shape) == len(port.shape)
    return same_rank and all(
        found == wanted or not (isinstance(found, int) and isinstance(wanted, int))
        for found, wanted in zip(shape, port.shape, strict=True)
    )
