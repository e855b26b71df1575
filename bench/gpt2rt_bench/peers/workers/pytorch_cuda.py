"""PyTorch on CUDA as an expert writes it: float16, static keys and values, compiled, CUDA graphs.

A decode step is one graph that is replayed: it attends to a bucket of positions, chooses the most
likely token and feeds it to the next step, all on the device. A prompt is read by one compiled call
for all shapes. With `device=cpu compile=` the same module runs plainly on a processor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from protocol import Answer, Ready, Tokens, greedy
from torch import nn
from torch.nn import functional

BUCKETS = (256, 512)  # positions that a step attends to: the least that holds all, else n_ctx
WARM = 3  # calls before a capture
SHAPES = 64  # of steps, each compiled by itself

Cache = list[tuple[torch.Tensor, torch.Tensor]]  # keys and values [B,H,C,W] of each layer


@dataclass(frozen=True)
class TorchCudaSettings:
    """Options of PyTorch; `compile` is a mode of `torch.compile`, empty to leave it out.

    `random`: 1 for random weights of the shape in `config.json`.
    """

    device: str = "cuda"
    compile: str = "max-autotune-no-cudagraphs"
    random: int = 0


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """The checkpoint is read as it is."""
    model.symlink_to(checkpoint.resolve(), target_is_directory=True)


class StaticBlock(nn.Module):  # type: ignore[misc]
    """A transformer block with the names of Transformers."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        d, epsilon = config["n_embd"], config["layer_norm_epsilon"]
        inner = config.get("n_inner") or 4 * d
        self.n_head = config["n_head"]
        self.ln_1, self.ln_2 = nn.LayerNorm(d, epsilon), nn.LayerNorm(d, epsilon)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(d, 3 * d), "c_proj": nn.Linear(d, d)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(d, inner), "c_proj": nn.Linear(inner, d)})

    def forward(
        self,
        x: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor],
        position: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:  # x [B,S,D], position [S], mask [1,bucket] -> [B,S,D]
        """Writes the new keys and values into the past. Without a mask the text begins here."""
        batch, length, width = x.shape
        qkv = self.attn.c_attn(self.ln_1(x)).view(batch, length, 3, self.n_head, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        for cache, new in zip(past, (k, v), strict=True):
            cache.index_copy_(2, position, new)
        if mask is not None:
            k, v = (cache[:, :, : mask.shape[-1]] for cache in past)
        mixed = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        x = x + self.attn.c_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        inner = functional.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh")
        return x + self.mlp.c_proj(inner)


class StaticGPT2(nn.Module):  # type: ignore[misc]
    """GPT-2 whose output is the most likely next token of each row."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        d = config["n_embd"]
        self.tied = config.get("tie_word_embeddings", True)
        self.wte = nn.Embedding(config["vocab_size"], d)
        self.wpe = nn.Embedding(config["n_positions"], d)
        self.h = nn.ModuleList(StaticBlock(config) for _ in range(config["n_layer"]))
        self.ln_f = nn.LayerNorm(d, config["layer_norm_epsilon"])
        self.lm_head = nn.Linear(d, config["vocab_size"], bias=False)

    def forward(
        self, tokens: torch.Tensor, position: torch.Tensor, cache: Cache, bucket: int
    ) -> torch.Tensor:  # tokens [B,S], position [S] -> [B,1]
        """`bucket`: the positions that may be attended to; 0: the text begins with these tokens."""
        x = self.wte(tokens) + self.wpe(position)
        mask = (torch.arange(bucket, device=x.device) <= position)[None] if bucket else None
        for block, past in zip(self.h, cache, strict=True):
            x = block(x, past, position, mask)
        logits = self.lm_head(self.ln_f(x[:, -1]))
        return logits.argmax(-1, keepdim=True)


def weights(place: Path, model: StaticGPT2, random: bool) -> dict[str, torch.Tensor]:
    """The weights by the names of `model`, of a checkpoint or random ones."""
    if random:
        generator = torch.Generator().manual_seed(0)
        found = {
            name: torch.ones(values.shape)
            if values.dim() == 1 and name.endswith("weight")
            else 0.02 * torch.randn(values.shape, generator=generator)
            for name, values in model.state_dict().items()
        }
    else:
        from safetensors.torch import load_file

        found = {}
        for name, values in load_file(place / "model.safetensors").items():
            matrix = name.rpartition(".")[0].endswith(("c_attn", "c_proj", "c_fc"))
            turned = values.T if matrix and values.dim() == 2 else values
            found[name.removeprefix("transformer.")] = turned.contiguous()
    if model.tied:
        found["lm_head.weight"] = found["wte.weight"]
    return found


def loaded(
    place: Path, precision: str, settings: TorchCudaSettings
) -> tuple[StaticGPT2, dict[str, Any]]:
    """The module on its device, and its `config.json`."""
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = StaticGPT2(config)
    model.load_state_dict(weights(place, model, bool(settings.random)), assign=True)
    model = model.to(settings.device, getattr(torch, precision)).eval()
    if model.tied:
        model.lm_head.weight = model.wte.weight  # one copy, also after a conversion
    return model, config


class StaticBatch:
    """Keys, values, the last tokens [B,1] and the next position [1] of texts of equal lengths."""

    def __init__(self, config: dict[str, Any], count: int, like: torch.Tensor) -> None:
        shape = (count, config["n_head"], config["n_positions"], config["n_embd"])
        shape = (*shape[:3], shape[3] // shape[1])
        self.cache: Cache = [
            (like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config["n_layer"])
        ]
        self.tokens = torch.zeros((count, 1), dtype=torch.int64, device=like.device)
        self.position = torch.zeros(1, dtype=torch.int64, device=like.device)
        self.length = 0
        self.steps: dict[int, torch.cuda.CUDAGraph] = {}  # by buckets


class TorchCudaModel:
    """A GPT-2 on CUDA that answers requests greedily, for prompts of equal lengths."""

    def __init__(
        self, model: Path, precision: str, threads: int, settings: TorchCudaSettings
    ) -> None:
        torch.set_num_threads(threads)
        torch._dynamo.config.cache_size_limit = SHAPES
        self._settings = settings
        self._model, self._config = loaded(model, precision, settings)
        self._read, self._step = (
            self._compiled(self._model, True),
            self._compiled(self._next, False),
        )
        self._batches: dict[int, StaticBatch] = {}
        self._batch: StaticBatch
        versions = {"torch": metadata.version("torch")}
        how = f"torch.compile, {settings.compile}" if settings.compile else "not compiled"
        self.ready = Ready(settings.device, precision, versions, [f"PyTorch: {how}"])

    def _compiled(self, function: Any, dynamic: bool) -> Any:
        mode = self._settings.compile
        if not mode:
            return function
        return torch.compile(function, fullgraph=True, dynamic=dynamic, mode=mode)

    def _next(
        self, tokens: torch.Tensor, position: torch.Tensor, cache: Cache, bucket: int
    ) -> None:
        """A decode step, which leaves the next tokens and position in the place of its own."""
        tokens.copy_(self._model(tokens, position, cache, bucket))
        position.add_(1)

    def respond(self, prompts: list[Tokens], steps: int) -> Answer:
        with torch.no_grad():
            return greedy(prompts, steps, self._prefill, self._decode)

    def _prefill(self, prompts: Sequence[Tokens]) -> Tokens:
        count, length = len(prompts), len(prompts[0])
        if count not in self._batches:
            self._batches[count] = StaticBatch(self._config, count, self._model.wte.weight)
        batch = self._batch = self._batches[count]
        device = batch.tokens.device
        tokens, places = torch.tensor(prompts).to(device), torch.arange(length, device=device)
        batch.tokens.copy_(self._read(tokens, places, batch.cache, 0))
        batch.position.fill_(length)
        batch.length = length
        return self._chosen()

    def _decode(self, tokens: Tokens) -> Tokens:
        """The tokens lie on the device already."""
        batch = self._batch
        batch.length += 1
        n_ctx = self._config["n_positions"]
        bucket = next((b for b in BUCKETS if batch.length <= b < n_ctx), n_ctx)
        if self._settings.device == "cpu":
            self._step(batch.tokens, batch.position, batch.cache, bucket)
        else:
            if bucket not in batch.steps:
                batch.steps[bucket] = self._captured(batch, bucket)
            batch.steps[bucket].replay()
        return self._chosen()

    def _chosen(self) -> Tokens:
        found: Tokens = self._batch.tokens[:, 0].tolist()
        return found

    def _captured(self, batch: StaticBatch, bucket: int) -> torch.cuda.CUDAGraph:
        """The step as a CUDA graph; it runs a few times, and writes what is written again."""
        before = batch.tokens.clone(), batch.position.clone()

        def run() -> None:
            batch.tokens.copy_(before[0])
            batch.position.copy_(before[1])
            self._step(batch.tokens, batch.position, batch.cache, bucket)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(batch.tokens, batch.position, batch.cache, bucket)
        batch.tokens.copy_(before[0])
        batch.position.copy_(before[1])
        return graph


SETTINGS, MODEL = TorchCudaSettings, TorchCudaModel  # for `run.py`
