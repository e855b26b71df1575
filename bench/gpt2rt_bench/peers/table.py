"""The table of peers: their precisions beside gpt2rt's, and the modules that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpt2rt.bundles.hparams import HParams


@dataclass(frozen=True, slots=True)
class Peer:
    """A library beside which gpt2rt is measured.

    `module` is its file in `workers`; `needs` are the modules that its Python must have;
    `precisions`: gpt2rt's name -> its own; `variants`: it runs every variant of `HParams`, not only
    OpenAI's model; `provider` is where it computes, `cpu` or `cuda`.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    precisions: Mapping[str, str]
    variants: bool = False
    provider: str = "cpu"

    def cannot_run(self, hparams: HParams) -> str:
        """Why this peer cannot run the model; "" where it can."""
        if self.variants:
            return ""
        usual = HParams(*(getattr(hparams, name) for name in OWN_SHAPE))
        odd = [
            f"{name} {value}"
            for name, value in hparams.as_dict().items()
            if name not in FREE and value != getattr(usual, name)
        ]
        return f"no GPT-2 with {', '.join(odd)}" if odd else ""


OWN_SHAPE = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
FREE = {*OWN_SHAPE, "n_inner", "epsilon", "tied"}

PEERS = (
    Peer(
        "llama.cpp",
        "llamacpp",
        ("llama_cpp", "gguf", "safetensors"),
        {"fp32": "f32", "fp16": "f16", "int8": "q8_0", "int4": "q4_0"},
    ),
    Peer(
        "CTranslate2",
        "ct2",
        ("ctranslate2", "transformers", "torch"),
        {"fp32": "float32", "int8": "int8"},
    ),
    Peer(
        "OpenVINO",
        "ov",
        ("openvino", "nncf", "torch", "safetensors"),
        {"fp32": "f32", "int8": "int8", "int4": "int4"},
    ),
    Peer("PyTorch", "pytorch", ("torch", "transformers"), {"fp32": "float32"}, variants=True),
    Peer(
        "PyTorch, compiled",
        "pytorch_cuda",
        ("torch", "safetensors"),
        {"fp16": "float16"},
        provider="cuda",
    ),
)
