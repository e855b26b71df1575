"""PyTorch with Transformers, float32, with its own cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from protocol import Answer, Ready, Tokens, greedy

LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class TorchSettings:
    """Options of PyTorch; the defaults were the fastest tried."""

    attention: str = "sdpa"
    compile: int = 0


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """Transformers reads the checkpoint itself."""
    model.symlink_to(checkpoint.resolve(), target_is_directory=True)


class TorchModel:
    """A GPT-2 loaded by PyTorch; answers requests greedily."""

    def __init__(self, model: Path, precision: str, threads: int, settings: TorchSettings) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self._torch = torch
        loaded = GPT2LMHeadModel.from_pretrained(
            str(model), dtype=torch.float32, attn_implementation=settings.attention
        ).eval()
        self._model = torch.compile(loaded, dynamic=True) if settings.compile else loaded
        self._past: Any = None
        self.ready = Ready("cpu", precision, {name: metadata.version(name) for name in LIBRARIES})

    def respond(self, prompts: list[Tokens], steps: int) -> Answer:
        with self._torch.inference_mode():
            return greedy(prompts, steps, self._prefill, self._step)

    def _prefill(self, prompts: Sequence[Tokens]) -> Tokens:
        self._past = None
        return self._next(prompts)

    def _step(self, tokens: Tokens) -> Tokens:
        return self._next([[token] for token in tokens])

    def _next(self, tokens: Sequence[Tokens]) -> Tokens:
        found = self._model(
            self._torch.tensor(tokens),
            past_key_values=self._past,
            use_cache=True,
            logits_to_keep=1,
        )
        self._past = found.past_key_values
        return list(found.logits[:, -1].argmax(-1).tolist())


SETTINGS, MODEL = TorchSettings, TorchModel  # for `run.py`
