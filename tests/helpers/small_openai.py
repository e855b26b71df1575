"""A small checkpoint as OpenAI's program writes it, and what is read from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2rt import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources import OpenAICheckpoint
from models import LargerWeights

SHAPE = HParams(n_vocab=300, n_ctx=8, n_embd=8, n_head=2, n_layer=2)
WEIGHTS = LargerWeights(SHAPE, seed=3)
VALUES = {name: WEIGHTS.read(name) for name in SHAPE.variables()}
DATA = "model.ckpt.data-00000-of-00001"
INDEX = "model.ckpt.index"
Values = Mapping[str, NDArray[Any]]
Save = Callable[..., Path]


def read_all(folder: Path) -> dict[str, NDArray[np.float32]]:
    checkpoint = OpenAICheckpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.hparams.variables()}


def assert_reads(folder: Path, wanted: Values = VALUES) -> None:
    found = read_all(folder)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        assert found[name].tobytes() == value.tobytes(), name


def refusal(folder: Path) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        OpenAICheckpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_hparams(folder: Path, **changes: object) -> None:
    values = {**SHAPE.as_dict(), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "hparams.json").write_text(json.dumps(kept))
