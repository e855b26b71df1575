"""CTranslate2: converted by its own TransformersConverter, run by its Generator."""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from protocol import Answer, Ready, Tokens


@dataclass(frozen=True)
class CTranslate2Settings:
    """Options of CTranslate2; the defaults were the fastest tried.

    They are CTranslate2's own switches: its GEMM from Intel's library on any processor ("1"), or
    what it chooses itself (""), and weights packed beforehand for that library.
    """

    mkl: str = ""
    packed: str = ""


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """`model` is a directory; `precision` is CTranslate2's name, such as `int8`."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(checkpoint)).convert(str(model), quantization=precision)


class CTranslate2Model:
    """A GPT-2 loaded by CTranslate2; answers requests greedily."""

    def __init__(
        self, model: Path, precision: str, threads: int, settings: CTranslate2Settings
    ) -> None:
        for name, value in (("MKL", settings.mkl), ("EXPERIMENTAL_PACKED_GEMM", settings.packed)):
            if value:
                os.environ[f"CT2_USE_{name}"] = value
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(model),
            device="cpu",
            compute_type=precision,
            inter_threads=1,
            intra_threads=threads,
        )
        found = self._generator.compute_type
        if not found.startswith(precision):
            raise RuntimeError(f"CTranslate2 computes in {found} here, not in {precision}")
        self._symbols = json.loads((model / "vocabulary.json").read_text(encoding="utf-8"))
        self.ready = Ready("cpu", found, {"ctranslate2": metadata.version("ctranslate2")})

    def respond(self, prompts: list[Tokens], steps: int) -> Answer:
        texts = [[self._symbols[token] for token in prompt] for prompt in prompts]
        arrived: list[float] = []

        def note(step: Any) -> bool:
            arrived.append(time.perf_counter())
            return False

        began = time.perf_counter()
        results = self._generator.generate_batch(
            texts,
            max_batch_size=len(texts),
            beam_size=1,
            sampling_topk=1,
            min_length=steps,
            max_length=steps,
            include_prompt_in_result=False,
            callback=note,
        )
        # The callback is called for each token of a step, once the step is done.
        ends = arrived[len(texts) - 1 :: len(texts)]
        assert len(ends) == steps, f"{len(ends)} steps of {steps}"
        return Answer(
            (ends[0] - began) * 1e3,
            [(b - a) * 1e3 for a, b in itertools.pairwise(ends)],
            [result.sequences_ids[0] for result in results],
        )


SETTINGS, MODEL = CTranslate2Settings, CTranslate2Model  # for `run.py`
