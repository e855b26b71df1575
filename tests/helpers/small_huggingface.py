"""A small model as Transformers and NumPy save it, and what is read from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints import values_of
from gpt2rt import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources import open_checkpoint
from models import LargerWeights

SHAPE = HParams(n_vocab=300, n_ctx=20, n_embd=24, n_head=3, n_layer=2)
WEIGHTS_OF = LargerWeights(SHAPE, seed=5)
VALUES = values_of(WEIGHTS_OF)


def refusal(folder: Path) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_reads(folder: Path, wanted: Mapping[str, NDArray[Any]] = VALUES) -> None:
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.hparams.variables()) == set(wanted)
    for name, value in wanted.items():
        found = checkpoint.read(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, value, name)
