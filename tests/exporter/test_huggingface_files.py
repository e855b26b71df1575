"""Directories of Transformers: names, shards and types do not matter; what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from checkpoints import huggingface_tensors, save_huggingface
from gpt2rt_export.sources import open_checkpoint
from gpt2rt_export.tokenizers.huggingface import write_tokenizer
from gpt2rt_export.tokenizers.huggingface_files import Carried
from small_huggingface import SHAPE, VALUES, assert_reads, configure, refusal


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("shards", [1, 4])
def test_names_and_shards_do_not_matter(prefix: str, shards: int, tmp_path: Path) -> None:
    tensors = huggingface_tensors(VALUES, prefix)
    assert_reads(save_huggingface(tmp_path / "model", SHAPE, tensors, shards))


def test_buffers_of_older_releases_do_not_matter(tmp_path: Path) -> None:
    tensors = huggingface_tensors(VALUES)
    tensors["transformer.h.0.attn.bias"] = np.ones((1, 1, 20, 20), np.uint8)
    tensors["transformer.h.1.attn.masked_bias"] = np.full((), -1e4, np.float32)
    tensors["lm_head.weight"] = VALUES["model/wte"]
    assert_reads(save_huggingface(tmp_path / "model", SHAPE, tensors))


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_float_types_are_widened_exactly(dtype: str, tmp_path: Path) -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    tensors = huggingface_tensors(VALUES, cast=lambda value: value.astype(kind))
    wanted = {name: value.astype(kind).astype(np.float32) for name, value in VALUES.items()}
    assert_reads(save_huggingface(tmp_path / "model", SHAPE, tensors), wanted)


def test_general_names_and_defaults_of_the_settings(huggingface: Path) -> None:
    body = json.loads((huggingface / "config.json").read_text())
    for name, other in (("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers")):
        body[other] = body.pop(name)
    for name in ("layer_norm_epsilon", "activation_function", "n_inner", "tie_word_embeddings"):
        del body[name]
    (huggingface / "config.json").write_text(json.dumps(body))
    assert open_checkpoint(huggingface).hparams == SHAPE


def test_a_byte_order_mark_says_nothing(huggingface: Path, tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json"):
        text = (huggingface / name).read_text(encoding="utf-8")
        (huggingface / name).write_text(text, encoding="utf-8-sig")
    assert_reads(huggingface)
    (tmp_path / "out").mkdir()
    assert write_tokenizer(huggingface, 300, tmp_path / "out") == Carried()


@pytest.mark.parametrize(
    ("name", "same"),
    [("gelu_fast", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new"), ("swish", "silu")],
)
def test_activations_of_several_names(huggingface: Path, name: str, same: str) -> None:
    configure(huggingface, activation_function=name)
    assert open_checkpoint(huggingface).hparams.activation == same


# ---- what cannot be done


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("pytorch_model.bin", "not a file of torch.save"),
        ("tf_model.h5", "convert it where Transformers is installed"),
        ("adapter_model.bin", "an adapter, not a model"),
        ("README.md", "model.safetensors missing"),
        ("model.fp16.safetensors", "if it is the whole model, call it so"),
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json missing"),
    ],
)
def test_other_weight_files_say_how_to_convert_them(
    huggingface: Path, name: str, fact: str
) -> None:
    (huggingface / "model.safetensors").rename(huggingface / name)
    assert fact in refusal(huggingface)


@pytest.mark.parametrize(
    ("file", "fact"),
    [
        ("manifest.json", "a bundle already"),
        ("model.gguf", "llama.cpp"),
        ("model.pt", "PyTorch's own format"),
        ("notes.txt", "no checkpoint there; gpt2rt reads OpenAI's"),
    ],
)
def test_a_directory_of_something_else(tmp_path: Path, file: str, fact: str) -> None:
    (tmp_path / file).touch()
    assert fact in refusal(tmp_path)
    assert "not" in refusal(tmp_path / file) or "a file" in refusal(tmp_path / file)
    assert "no such directory" in refusal(tmp_path / "nowhere")


def test_shards_missing_and_places_elsewhere(tmp_path: Path) -> None:
    folder = save_huggingface(tmp_path / "model", SHAPE, huggingface_tensors(VALUES), shards=3)
    index = folder / "model.safetensors.index.json"
    good = index.read_text()
    for place in ("../other.safetensors", "/etc/passwd", r"..\\other.safetensors"):
        index.write_text(good.replace("model-00001-of-00003.safetensors", place))
        assert "is not the name of a file beside it" in refusal(folder)
    index.write_text("{}")
    assert "has no weight_map" in refusal(folder)
    index.write_text(good)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors missing" in refusal(folder)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.9999])
def test_a_file_cut_short_is_found(huggingface: Path, part: float) -> None:
    data = (huggingface / "model.safetensors").read_bytes()
    (huggingface / "model.safetensors").write_bytes(data[: int(len(data) * part)])
    assert "model.safetensors: cannot be read" in refusal(huggingface)


def test_a_clone_without_its_large_files_is_known(huggingface: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n"
    (huggingface / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal(huggingface)
