"""Makes and writes the graphs of a bundle: one for each kind of processor, over one weight file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.manifest import CUDA_GRAPH, EMBED, GRAPH, PORTABLE_GRAPH, STATES, TAILS, WEIGHTS
from gpt2rt_export.onnx_graph.cuda import fuse_cuda, pool_cuda, states_cuda
from gpt2rt_export.onnx_graph.cuda_tails import tails
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.hidden import hidden
from gpt2rt_export.onnx_graph.portable import fuse_portable
from gpt2rt_export.onnx_graph.weights import Weight, attach
from gpt2rt_export.sources import Checkpoint


def fused(
    standard: onnx.ModelProto, hparams: HParams, precision: str, kv: str
) -> tuple[dict[str, onnx.ModelProto], list[Weight]]:
    """File name -> graph, still without weights, and the weights that they need together.

    `kv` is the dtype of keys and values on a CPU.
    """
    model, weights = fuse(standard, hparams, STORAGE[precision], kv)
    models, wanted = {GRAPH: model}, {weight.names: weight for weight in weights}
    models[PORTABLE_GRAPH], weights = fuse_portable(standard, hparams, precision)
    wanted |= {weight.names: weight for weight in weights}
    models[CUDA_GRAPH], weights = fuse_cuda(standard, hparams, precision)
    wanted |= {weight.names: weight for weight in weights}
    models |= {TAILS[kind]: model for kind, model in tails(hparams).items()}
    models[STATES["states"]] = states_cuda(standard, hparams, precision)
    models[STATES["pool"]] = pool_cuda(hparams)
    return models, list(wanted.values())


def write(
    models: dict[str, onnx.ModelProto],
    weights: list[Weight],
    checkpoint: Checkpoint,
    directory: Path,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the weights, the graphs, and the embedding graph made from `GRAPH`, into a directory.

    Raises what `attach` does.
    """
    attach(models.values(), weights, checkpoint, directory / WEIGHTS, advance)
    for name, model in models.items():
        onnx.save(model, directory / name)
    onnx.save(hidden(models[GRAPH], checkpoint.hparams), directory / EMBED)
