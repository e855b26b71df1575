"""Checkpoints as people publish them: wrappers' prefixes, heads beside the model, no biases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow")

import reference
from checkpoints import huggingface_tensors, save_huggingface, save_npz, save_openai, values_of
from gpt2rt import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources import HuggingFaceCheckpoint, open_checkpoint
from gpt2rt_export.verify import reference as tensorflow
from models import LargerWeights
from torch_files import tensor, write

SHAPE = HParams(n_vocab=300, n_ctx=20, n_embd=24, n_head=3, n_layer=2)
VALUES = values_of(LargerWeights(SHAPE, seed=5))
TENSORS = huggingface_tensors(VALUES)
Tensors = dict[str, NDArray[Any]]


def read(folder: Path) -> tuple[Tensors, str]:
    """Every variable, and what is said of how they were read."""
    checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint, HuggingFaceCheckpoint)
    values = {name: checkpoint.read(name) for name in checkpoint.hparams.variables()}
    return values, " ".join(checkpoint.notes)


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("module.", "module"),
        ("_orig_mod.", "_orig_mod"),
        ("module._orig_mod.", "module, _orig_mod"),
        ("base_model.model.", "base_model, model"),
        ("model.", "model"),
    ],
)
def test_words_of_wrappers_before_the_names_are_passed_over_and_said(
    prefix: str, words: str, tmp_path: Path
) -> None:
    tensors = {prefix + name: value for name, value in TENSORS.items()}
    values, said = read(save_huggingface(tmp_path / "m", SHAPE, tensors))
    assert_same(values, VALUES)
    assert f"Pass over {words} in the names" in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("transformer.", "transformer._orig_mod."),
        ("transformer.h.", "transformer.h._orig_mod."),
        ("transformer.h.0.", "transformer.h.0._orig_mod."),
        (".mlp.", "._fsdp_wrapped_module.mlp._checkpoint_wrapped_module."),
        ("transformer.", "module.transformer._orig_mod."),
    ],
)
def test_words_of_wrappers_within_the_names_are_passed_over_and_said(
    old: str, new: str, tmp_path: Path
) -> None:
    tensors = {name.replace(old, new): value for name, value in TENSORS.items()}
    values, said = read(save_huggingface(tmp_path / "m", SHAPE, tensors))
    assert_same(values, VALUES)
    assert "in the names: a wrapper's words" in said


def test_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    tensors = TENSORS | {f"module.{name}": value for name, value in TENSORS.items()}
    with pytest.raises(BadCheckpoint, match="the same tensor of two models"):
        open_checkpoint(save_huggingface(tmp_path / "m", SHAPE, tensors))


def test_an_unknown_prefix_is_refused(tmp_path: Path) -> None:
    tensors = {f"vision.{name}": value for name, value in TENSORS.items()}
    with pytest.raises(BadCheckpoint, match="missing"):
        open_checkpoint(save_huggingface(tmp_path / "m", SHAPE, tensors))


@pytest.mark.parametrize("name", ["v_head.summary.weight", "score.weight", "classifier.bias"])
def test_a_head_beside_the_model_is_left_out_and_said(name: str, tmp_path: Path) -> None:
    tensors = {**TENSORS, name: np.ones((1, 24), np.float32)}
    values, said = read(save_huggingface(tmp_path / "m", SHAPE, tensors))
    assert_same(values, VALUES)
    assert f"Leave out {name}" in said


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.0.adapter.weight",
        "transformer.h.1.attn.c_attn.lora_A.weight",
        "transformer.ln_f.extra",
        "lm_head.bias",
        "lora_B.weight",
    ],
)
def test_what_would_change_the_model_is_refused_by_name(name: str, tmp_path: Path) -> None:
    tensors = {**TENSORS, name: np.ones((24,), np.float32)}
    with pytest.raises(BadCheckpoint, match=r"no part of a GPT-2|LoRA"):
        open_checkpoint(save_huggingface(tmp_path / "m", SHAPE, tensors))


NORMS: Callable[[str], bool] = lambda name: ".ln_" in name  # noqa: E731
ALL: Callable[[str], bool] = lambda name: True  # noqa: E731


@pytest.mark.parametrize(("lost", "said"), [(ALL, "layers and norms"), (NORMS, "norms")])
def test_biases_that_are_missing_together_are_zeros(
    lost: Callable[[str], bool], said: str, tmp_path: Path
) -> None:
    tensors = {n: v for n, v in TENSORS.items() if not (n.endswith(".bias") and lost(n))}
    values, told = read(save_huggingface(tmp_path / "m", SHAPE, tensors))
    gone = {n for n in VALUES if n.endswith("/b") and (said != "norms" or "/ln_" in n)}
    assert_same(values, {n: np.zeros_like(v) if n in gone else v for n, v in VALUES.items()})
    assert f"The {said} have no biases" in told


@pytest.mark.parametrize(
    "name",
    ["transformer.h.0.attn.c_attn.bias", "transformer.h.1.ln_2.bias", "transformer.ln_f.bias"],
)
def test_a_bias_that_alone_is_missing_is_refused(name: str, tmp_path: Path) -> None:
    tensors = {n: v for n, v in TENSORS.items() if n != name}
    with pytest.raises(BadCheckpoint, match=f"{name} missing"):
        open_checkpoint(save_huggingface(tmp_path / "m", SHAPE, tensors))


def test_layers_without_biases_beside_norms_with_them_are_refused(tmp_path: Path) -> None:
    tensors = {n: v for n, v in TENSORS.items() if not n.endswith(".bias") or NORMS(n)}
    with pytest.raises(BadCheckpoint, match=r"c_attn\.bias missing"):
        open_checkpoint(save_huggingface(tmp_path / "m", SHAPE, tensors))


@pytest.mark.parametrize("shards", [1, 2])
def test_files_of_torch_are_read_as_safetensors_are(shards: int, tmp_path: Path) -> None:
    folder = save_huggingface(tmp_path / "m", SHAPE, TENSORS)
    (folder / "model.safetensors").unlink()
    names = sorted(TENSORS)
    place: dict[str, str] = {}
    for number in range(shards):
        part = names[number::shards]
        file = f"pytorch_model-{number}.bin" if shards > 1 else "pytorch_model.bin"
        body = {name: tensor(str(i), TENSORS[name]) for i, name in enumerate(part)}
        data = {str(i): TENSORS[name].tobytes() for i, name in enumerate(part)}
        write(folder / file, body, data)
        place.update(dict.fromkeys(part, file))
    if shards > 1:
        index = f'{{"weight_map": {place!r}}}'.replace("'", '"')
        (folder / "pytorch_model.bin.index.json").write_text(index)
    assert_same(read(folder)[0], VALUES)


def test_a_folder_called_checkpoint_is_no_tensorflow_checkpoint(tmp_path: Path) -> None:
    folder = save_huggingface(tmp_path / "m", SHAPE, TENSORS)
    (folder / "checkpoint").mkdir()
    assert_same(read(folder)[0], VALUES)


def test_a_tensorflow_fine_tune_without_its_checkpoint_file(tmp_path: Path) -> None:
    folder = save_openai(tmp_path / "m", VALUES, SHAPE)
    (folder / "checkpoint").unlink(missing_ok=True)
    for path in list(folder.glob("model.ckpt*")):
        path.rename(folder / path.name.replace("model.ckpt", "model-1234"))
    found = open_checkpoint(folder)
    assert_same({name: found.read(name) for name in found.hparams.variables()}, VALUES)
    for path in list(folder.glob("model-1234*")):
        path.with_name(path.name.replace("1234", "99")).write_bytes(path.read_bytes())
    with pytest.raises(BadCheckpoint, match="several checkpoints"):
        open_checkpoint(folder)


# ---- OpenAI's formats: nothing in a checkpoint is silently left out

HEAD = np.random.default_rng(9).normal(size=(300, 24)).astype(np.float32)


def saved(kind: str, folder: Path, values: Tensors) -> Path:
    """A checkpoint of the kind; its `hparams.json` has OpenAI's five keys and nothing of a head."""
    openai = kind == "openai"
    made = save_openai(folder, values, SHAPE) if openai else save_npz(folder, SHAPE, values)
    hparams = folder / "hparams.json"
    keys = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    hparams.write_text(json.dumps({key: getattr(SHAPE, key) for key in keys}))
    return made


@pytest.mark.parametrize("kind", ["openai", "npz"])
def test_a_head_of_its_own_is_used_though_no_setting_names_it(kind: str, tmp_path: Path) -> None:
    values: Tensors = {**VALUES, "model/lm_head": HEAD}
    checkpoint = open_checkpoint(saved(kind, tmp_path / "m", values))
    assert not checkpoint.hparams.tied
    np.testing.assert_array_equal(checkpoint.read("model/lm_head"), HEAD)
    assert list(checkpoint.notes) == []
    text = [1, 2, 3, 4]
    wanted = reference.logits(values.__getitem__, checkpoint.hparams, text)
    found = tensorflow.read(checkpoint, text).logits()
    np.testing.assert_allclose(found, wanted, atol=3e-5)
    tied = reference.logits(values.__getitem__, SHAPE, text)
    assert np.abs(wanted - tied).max() > 1, "the head makes a difference"


@pytest.mark.parametrize("kind", ["openai", "npz"])
def test_a_head_that_is_the_embedding_stays_tied(kind: str, tmp_path: Path) -> None:
    values: Tensors = {**VALUES, "model/lm_head": VALUES["model/wte"]}
    checkpoint = open_checkpoint(saved(kind, tmp_path / "m", values))
    assert checkpoint.hparams == SHAPE
    assert list(checkpoint.notes) == []


@pytest.mark.parametrize("kind", ["openai", "npz"])
def test_a_head_of_another_shape_is_refused(kind: str, tmp_path: Path) -> None:
    values: Tensors = {**VALUES, "model/lm_head": HEAD[:, :5]}
    with pytest.raises(BadCheckpoint, match=r"model/lm_head is \[300, 5\], not"):
        open_checkpoint(saved(kind, tmp_path / "m", values))


@pytest.mark.parametrize("kind", ["openai", "npz"])
def test_arrays_that_are_not_used_are_named(kind: str, tmp_path: Path) -> None:
    names = [f"model/h0/extra{n:02}" for n in range(12)]
    values: Tensors = {**VALUES, **{name: np.ones(3, np.float32) for name in names}}
    (said,) = open_checkpoint(saved(kind, tmp_path / "m", values)).notes
    assert said.startswith(f"Leave out {names[0]}, ")
    assert "and 3 more" in said
