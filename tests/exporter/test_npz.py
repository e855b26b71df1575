"""Checkpoints as one `.npz` file: read bit for bit, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from checkpoints import save_npz, values_of
from gpt2rt import HParams
from gpt2rt_export.sources import NpzCheckpoint
from models import LargerWeights
from small_huggingface import SHAPE, VALUES, assert_reads, refusal


def test_an_npz_reads_back_bit_for_bit(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "model", SHAPE, VALUES)
    assert_reads(path)
    assert_reads(path.parent)
    flat = {name: v[0] if v.ndim == 3 else v for name, v in VALUES.items()}
    assert_reads(save_npz(tmp_path / "flat", SHAPE, flat))
    half = {name: value.astype(np.float16) for name, value in VALUES.items()}
    wanted = {name: value.astype(np.float32) for name, value in half.items()}
    assert_reads(save_npz(tmp_path / "half", SHAPE, half), wanted)


def test_an_npz_without_hparams_has_the_shape_of_its_arrays(tmp_path: Path) -> None:
    hparams = HParams(n_vocab=260, n_ctx=4, n_embd=128, n_head=2, n_layer=1, n_inner=100)
    path = save_npz(tmp_path / "model", hparams, values_of(LargerWeights(hparams, 1)))
    (path.parent / "hparams.json").unlink()
    assert NpzCheckpoint(path).hparams == hparams
    narrow = save_npz(tmp_path / "narrow", SHAPE, VALUES)
    (narrow.parent / "hparams.json").unlink()
    assert "24 is no multiple of 64" in refusal(narrow)


def test_an_npz_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", kernel=np.zeros((2, 2), np.float32))
    assert "holds kernel, not GPT-2's model/wte" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", kernel=np.array([{}], object))
    assert "several checkpoints, a.npz, b.npz" in refusal(tmp_path)
    (tmp_path / "a.npz").unlink()
    assert "of type object" in refusal(tmp_path / "b.npz")
    (tmp_path / "b.npz").write_bytes(b"PK")
    assert "cannot be read as .npz" in refusal(tmp_path / "b.npz")
