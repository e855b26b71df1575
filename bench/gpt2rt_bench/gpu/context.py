"""What the items measure with: bundles, sizes, the peer, and a stand-in for a device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2rt import GPT2, Bundle
from gpt2rt.engine import providers
from gpt2rt.engine.cuda import memory
from gpt2rt.engine.providers import CPU, CUDA, PROVIDERS
from gpt2rt_bench import worker
from gpt2rt_bench.cases import Configuration
from gpt2rt_bench.protocol import Tokens
from gpt2rt_bench.subject import Subject

RUN = Path(worker.__file__).parent / "peers" / "workers" / "run.py"
PEER = "pytorch_cuda"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. Prompts, texts and steps are in tokens, passages in characters."""

    batches: tuple[int, ...] = (1, 32, 128)
    prompts: tuple[int, ...] = (64, 512)
    prefills: tuple[tuple[int, int], ...] = ((32, 64), (8, 512))
    steps: int = 64
    rounds: int = 5
    compared: tuple[int, int, int] = (16, 32, 24)  # texts, of their prompts, of what follows
    generated: tuple[int, int, int, int] = (256, 16, 64, 128)  # ... and side by side
    scored: tuple[int, int] = (64, 1000)  # passages, characters of each
    calls: int = 1000
    settled: int = 200  # calls after which memory must not grow
    many: int = 32  # texts of the large model side by side


TINY = Sizes((1, 3), (4, 9), ((2, 4), (2, 9)), 3, 1, (2, 5, 4), (6, 4, 5, 3), (4, 30), 12, 4, 2)


@dataclass(frozen=True, slots=True)
class Context:
    """The directories of the bundles of two sizes, and the rest.

    `peers_python`: the Python that has PyTorch, None without; `dry`: all is tiny, and the CPU
    provider stands in for the device.
    """

    small: str
    large: str
    peers_python: str | None
    dry: bool

    @property
    def sizes(self) -> Sizes:
        """How much is measured."""
        return TINY if self.dry else Sizes()

    def load(self, directory: str, provider: str = CUDA) -> GPT2:
        """A bundle, loaded on the device or on `cpu`."""
        return GPT2(Bundle.open(Path(directory)), provider=provider)

    def worker(self, directory: str, environment: Mapping[str, str] | None = None) -> Subject:
        """gpt2rt in a process of its own, as in `gpt2rt bench`. A stand-in is the CPU's graph."""
        where = Configuration("gpt2rt", CPU if self.dry else CUDA, 1)
        return Subject("gpt2rt", worker.command(Path(directory), where), environment)

    def peer(self, work: Path) -> Subject | None:
        """PyTorch with random weights of the small model's shape; None: no Python has it.

        It is compiled in the default mode: to tune it takes longer than all that is measured.
        """
        if self.peers_python is None:
            return None
        shape = Bundle.open(Path(self.small)).manifest.hparams
        (work / "config.json").write_text(json.dumps(config(shape.as_dict())), encoding="utf-8")
        how = ["float32", "1", "device=cpu", "compile="] if self.dry else ["float16", "1"]
        settings = ["random=1", *([] if self.dry else ["compile=default"])]
        command = [self.peers_python, str(RUN), PEER, "serve", str(work), *how, *settings]
        return Subject("PyTorch", command)


def prompts(model: GPT2, count: int, length: int) -> list[Tokens]:
    """Random prompts [count, length], the same at each call."""
    found: list[Tokens] = (
        np.random.default_rng(0).integers(0, model.hparams.n_vocab, (count, length)).tolist()
    )
    return found


def stand_in() -> None:
    """Let the CPU provider run the graphs for CUDA over ordinary memory, in this process."""
    providers.cuda_problem = lambda: None
    PROVIDERS[CUDA] = PROVIDERS[CPU]
    memory.CudaMemory = memory.HostMemory  # type: ignore[assignment, misc]


def config(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """What the peer reads of `config.json`."""
    names = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "epsilon": "layer_norm_epsilon"}
    names["tied"] = "tie_word_embeddings"
    return {names.get(name, name): value for name, value in hparams.items()}
