"""Small models for the tests, made without TensorFlow, and where the real vocabulary lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from gpt2rt import HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import EMBED, MANIFEST, PORTABLE_GRAPH, Manifest
from gpt2rt.bundles.precision import KV_TYPES, PRECISIONS
from gpt2rt.kernels.library import kernels
from gpt2rt_export.onnx_graph import targets
from gpt2rt_export.sources import Checkpoint, RandomCheckpoint
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary

BUNDLE_FILES = ("model.onnx", PORTABLE_GRAPH, EMBED, "weights.bin", "encoder.json", "vocab.bpe")
TINY = HParams(n_vocab=300, n_ctx=48, n_embd=32, n_head=4, n_layer=3)
# Largest difference from the oracle of the tiny model's logits (deviation 0.69), about twice
# what was seen. Hidden states (deviation 1 to 5) and log-probabilities stay within, too.
NOISE = {"fp32": 2e-5, "fp16": 4e-3, "int8": 0.25, "int4": 1.2}
# Largest difference of logits that were computed in calls of other shapes, without kernels: sums in
# another order, and where they tip a rounding the steps of 8 bits.
SAME = {"fp32": 1e-5, "fp16": 4e-3, "int8": 0.1, "int4": 0.1}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class LargerWeights:
    """Random weights so large that attention and GELU leave their linear range."""

    hparams: HParams
    seed: int
    factor: float = 6.0
    origin: str = "test"
    tokenizer: None = None
    files: tuple[()] = ()
    unused: tuple[()] = ()
    notes: tuple[()] = ()

    @property
    def identity(self) -> str:
        return f"test weights {self.seed}"

    def read(self, name: str) -> NDArray[np.float32]:
        values = RandomCheckpoint(self.hparams, self.seed).read(name)
        return values if name.endswith("/g") else values * np.float32(self.factor)


def kernels_loaded() -> bool:
    """Whether sessions have the kernels, with which a row's bits depend on nothing else."""
    return kernels().path is not None


# The precisions in which a text is the same however its tokens are computed.
REPEATABLE = sorted(PRECISIONS) if kernels_loaded() else ["fp32"]


def assert_same(found: Any, wanted: Any, precision: str) -> None:
    """Logits, or logarithms of probabilities, of the same tokens: equal with the kernels, else
    nearly."""
    atol = 0 if kernels_loaded() else SAME[precision]
    np.testing.assert_allclose(found, wanted, atol=atol, rtol=0)


def skeleton(hparams: HParams) -> onnx.ModelProto:
    """What `fuse` keeps of a converted graph: the residual additions between named cuts."""
    nodes, x = [], "embed"
    names = ["embed", "ln_f"]
    for i in range(hparams.n_layer):
        for part in ("attn", "mlp"):
            ends = [f"{scope}/out:0" for scope in (x, f"h{i}/{part}/c_proj", f"h{i}/{part}")]
            nodes.append(helper.make_node("Add", ends[:2], ends[2:]))
            x = f"h{i}/{part}"
        parts = ("ln_1", "attn/c_attn", "attend", "attn/c_proj", "ln_2", "gelu", "mlp/c_proj")
        names += [f"h{i}/{part}" for part in parts]
    nodes += [helper.make_node("Identity", ["none"], [f"{name}/out:0"]) for name in names]
    graph = helper.make_graph(nodes, "skeleton", [], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def make_bundle(
    directory: Path,
    checkpoint: Checkpoint,
    precision: str,
    origin: str = "test",
    kv: str | None = None,
) -> Bundle:
    """A fused bundle, written without TensorFlow."""
    hparams = checkpoint.hparams
    directory.mkdir(parents=True)
    write_vocabulary(directory, *synthetic_vocabulary(hparams.n_vocab))
    kind = KV_TYPES[kv or PRECISIONS[precision].kv]
    models, weights = targets.fused(skeleton(hparams), hparams, precision, kind)
    targets.write(models, weights, checkpoint, directory)
    files = {path.name: record(path) for path in sorted(directory.iterdir())}
    manifest = Manifest("tiny", precision, "fused", kind, hparams, "synthetic", origin, {}, files)
    (directory / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(directory)
