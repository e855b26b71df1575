"""OpenVINO: PyTorch's graph converted with a stateful cache, weights compressed by NNCF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from protocol import Answer, Ready, Tokens, greedy


@dataclass(frozen=True)
class OpenVinoSettings:
    """Options of OpenVINO; the defaults were the fastest tried."""

    kv: str = "u8"
    group: int = 32  # group size of quantised activations; 0: not quantised


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """`model` is a directory with `model.xml`; int8 and int4 by `nncf.compress_weights`."""
    import openvino

    converted = stateful(checkpoint)
    if precision != "f32":
        import nncf

        mode = {
            "int8": nncf.CompressWeightsMode.INT8_ASYM,
            "int4": nncf.CompressWeightsMode.INT4_SYM,
        }[precision]
        options = {"ratio": 1.0, "group_size": 128} if precision == "int4" else {}
        converted = nncf.compress_weights(converted, mode=mode, **options)
    model.mkdir()
    openvino.save_model(converted, model / "model.xml", compress_to_fp16=False)


def stateful(checkpoint: Path) -> Any:
    """GPT-2 with keys and values as variables of the graph: OpenVINO's form for generation.

    Optimum writes the same form (a gather by `beam_idx` before each concatenation), which the CPU
    plugin fuses into one attention with a cache. The lm_head reads the last position only.
    """
    import openvino
    import torch
    from openvino._offline_transformations import apply_make_stateful_transformation
    from safetensors.torch import load_file

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    weights = load_file(checkpoint / "model.safetensors")
    n_layer, n_head = config["n_layer"], config["n_head"]
    width = config["n_embd"] // n_head
    past = [torch.zeros(2, n_head, 3, width) for _ in range(2 * n_layer)]
    example = [torch.zeros(2, 2, dtype=torch.int64), torch.arange(2, dtype=torch.int32), *past]
    model = openvino.convert_model(graph(config, weights), example_input=tuple(example))
    names = ["input_ids", "beam_idx", *(f"past.{i}" for i in range(2 * n_layer))]
    shapes = [[-1, -1], [-1], *([-1, n_head, -1, width] for _ in past)]
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    model.reshape(dict(zip(names, map(openvino.PartialShape, shapes), strict=True)))
    outputs = ["logits", *(f"present.{i}" for i in range(2 * n_layer))]
    for port, name in zip(model.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    pairs = {f"past.{i}": f"present.{i}" for i in range(2 * n_layer)}
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, pairs)
    _empty_at_first(model, n_head, width)
    return model


def _empty_at_first(model: Any, n_head: int, width: int) -> None:
    """The variables begin as [batch, heads, 0, width], the batch being the input's."""
    import numpy as np
    from openvino import opset13 as op

    batch = op.gather(op.shape_of(model.input("input_ids"), "i64"), np.array([0]), np.array(0))
    shape = op.concat([batch, np.array([n_head]), np.array([0]), np.array([width])], 0)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([op.broadcast(np.float32(0), shape)])
    model.validate_nodes_and_infer_types()


def linear(weights: dict[str, Any], name: str) -> Any:
    """The linear layer `name`, whose weights are [in,out] in the checkpoint."""
    from torch import nn

    n_in, n_out = weights[f"{name}.weight"].shape
    module = nn.Linear(n_in, n_out)
    module.weight.data = weights[f"{name}.weight"].T.contiguous()
    module.bias.data = weights[f"{name}.bias"]
    return module


def norm(weights: dict[str, Any], name: str, epsilon: float) -> Any:
    """The layer norm `name`."""
    from torch import nn

    module = nn.LayerNorm(len(weights[f"{name}.weight"]), epsilon)
    module.weight.data = weights[f"{name}.weight"]
    module.bias.data = weights[f"{name}.bias"]
    return module


def block(config: dict[str, Any], weights: dict[str, Any], name: str) -> Any:
    """The transformer block `name`: x [B,S,D], mask, beam_idx, keys and values [B,H,P,W] -> x, keys
    and values [B,H,P+S,W]."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    n_embd, n_head, epsilon = config["n_embd"], config["n_head"], config["layer_norm_epsilon"]

    class TorchBlock(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = (norm(weights, f"{name}.ln_{i}", epsilon) for i in (1, 2))
            self.c_attn = linear(weights, f"{name}.attn.c_attn")
            self.c_proj = linear(weights, f"{name}.attn.c_proj")
            self.c_fc = linear(weights, f"{name}.mlp.c_fc")
            self.mlp_proj = linear(weights, f"{name}.mlp.c_proj")

        def forward(self, x: Any, mask: Any, beams: Any, keys: Any, values: Any) -> Any:
            parts = self.c_attn(self.ln_1(x)).split(n_embd, 2)
            q, k, v = (
                p.view(*p.shape[:2], n_head, n_embd // n_head).transpose(1, 2) for p in parts
            )
            k = torch.cat([keys.index_select(0, beams), k], 2)
            v = torch.cat([values.index_select(0, beams), v], 2)
            a = f.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + self.c_proj(a.transpose(1, 2).reshape(x.shape))
            x = x + self.mlp_proj(f.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
            return x, k, v

    return TorchBlock()


def graph(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """GPT-2 as a PyTorch module: ids [B,S], beam_idx [B], past keys and values [B,H,P,W] in turn
    -> logits [B,V] of the last position, present keys and values [B,H,P+S,W]."""
    import torch
    from torch import nn

    class TorchGpt2(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            names = [f"transformer.h.{i}" for i in range(config["n_layer"])]
            self.blocks = nn.ModuleList(block(config, weights, name) for name in names)
            self.ln_f = norm(weights, "transformer.ln_f", config["layer_norm_epsilon"])
            self.wte, self.wpe = nn.Embedding(1, 1), nn.Embedding(1, 1)
            self.wte.weight.data = weights["transformer.wte.weight"]
            self.wpe.weight.data = weights["transformer.wpe.weight"]
            self.head = nn.Linear(1, 1, bias=False)
            self.head.weight.data = weights.get("lm_head.weight", self.wte.weight.data)

        def forward(self, ids: Any, beams: Any, *past: Any) -> Any:
            before = past[0].shape[2]
            whole = before + ids.shape[1]
            place = torch.arange(before, whole)
            mask = torch.where(torch.arange(whole)[None] <= place[:, None], 0.0, -torch.inf)
            mask = mask[None, None]
            x = self.wte(ids) + self.wpe(place)
            present = []
            for i, each in enumerate(self.blocks):
                x, k, v = each(x, mask, beams, past[2 * i], past[2 * i + 1])
                present += [k, v]
            return (self.head(self.ln_f(x[:, -1])), *present)

    return TorchGpt2().eval()


class OpenVinoModel:
    """A GPT-2 loaded by OpenVINO; answers requests greedily."""

    def __init__(
        self, model: Path, precision: str, threads: int, settings: OpenVinoSettings
    ) -> None:
        import openvino

        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": settings.kv,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": settings.group,
        }
        core = openvino.Core()
        self._compiled = core.compile_model(core.read_model(model / "model.xml"), "CPU", options)
        self._request = self._compiled.create_infer_request()
        versions = {"openvino": metadata.version("openvino")}
        notes = [f"OpenVINO keeps keys and values in {settings.kv}"]
        self.ready = Ready("cpu", precision, versions, notes)

    def respond(self, prompts: list[Tokens], steps: int) -> Answer:
        return greedy(prompts, steps, self._prefill, self._step)

    def _prefill(self, prompts: Sequence[Tokens]) -> Tokens:
        self._request.reset_state()
        return self._next(prompts)

    def _step(self, tokens: Tokens) -> Tokens:
        return self._next([[token] for token in tokens])

    def _next(self, tokens: Sequence[Tokens]) -> Tokens:
        import numpy as np

        ids, beams = np.array(tokens), np.arange(len(tokens), dtype=np.int32)
        found = self._request.infer({"input_ids": ids, "beam_idx": beams}, share_inputs=True)
        return list(found["logits"].argmax(-1).tolist())


SETTINGS, MODEL = OpenVinoSettings, OpenVinoModel  # for `run.py`
