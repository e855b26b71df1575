"""Models that are no GPT-2, or settings that no graph of ours has: refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from checkpoints import huggingface_tensors, save_huggingface, save_openai
from small_huggingface import SHAPE, VALUES, configure, refusal


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"model_type": "llama"}, "a model of the family 'llama'"),
        ({"model_type": "gpt_neo"}, "a model of the family 'gpt_neo'"),
        ({"add_cross_attention": True}, "cross-attention"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"auto_map": {"AutoModel": "own.py"}}, "code of its own"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, "a classifier"),
        ({"activation_function": "xielu"}, "activation 'xielu' cannot be done; there are gelu_new"),
        ({"activation_function": ["relu"]}, "cannot be done"),
        ({"n_head": 5}, "n_embd 24 cannot be divided among n_head 5"),
        ({"vocab_size": "300"}, "n_vocab must be a positive whole number"),
        ({"layer_norm_epsilon": 0}, "epsilon must be between 0 and 1"),
        ({"tie_word_embeddings": None}, "tied must be true or false"),
        ({"tie_word_embeddings": False}, "lm_head.weight missing"),
        ({"n_layer": 3}, "blocks up to h1 where n_layer is 3"),
        ({"n_layer": 10**30}, "blocks up to h1 where n_layer is 1000000"),
        ({"n_inner": 95}, r"mlp.c_fc.weight is [24, 96], not [24, 95]"),
        ({"vocab_size": 301}, "wte.weight is [300, 24], not [301, 24]"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    huggingface: Path, changes: dict[str, object], fact: str
) -> None:
    configure(huggingface, **changes)
    assert fact in refusal(huggingface)


def test_a_head_that_is_tied_and_another_is_refused(tmp_path: Path) -> None:
    tensors = huggingface_tensors(VALUES) | {"lm_head.weight": VALUES["model/wte"] * 2}
    message = refusal(save_huggingface(tmp_path / "model", SHAPE, tensors))
    assert "lm_head.weight is not wte.weight" in message


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "another family: Llama"),
        ("transformer.h.0.attn.attention.q_proj.weight", "another family: GPT-Neo"),
        ("bert.embeddings.word_embeddings.weight", "another family: BERT"),
        ("base.h.0.c_attn.lora_A.weight", "a LoRA adapter"),
        ("transformer.h.0.crossattention.c_attn.weight", "is no part of a GPT-2"),
    ],
)
def test_foreign_tensors_are_named(tmp_path: Path, name: str, fact: str) -> None:
    tensors = huggingface_tensors(VALUES) | {name: np.zeros((2, 2), np.float32)}
    assert fact in refusal(save_huggingface(tmp_path / "model", SHAPE, tensors))


def test_integers_are_no_weights(tmp_path: Path) -> None:
    tensors = huggingface_tensors(VALUES, cast=lambda value: value.astype(np.int8))
    assert "of type I8" in refusal(save_huggingface(tmp_path / "model", SHAPE, tensors))


def test_a_tensorflow_checkpoint_of_another_family(tmp_path: Path) -> None:
    variables = {"bert/embeddings/word_embeddings": np.zeros((2, 2), np.float32)}
    folder = save_openai(tmp_path / "model", variables, SHAPE)
    (folder / "hparams.json").unlink()
    assert "another family: BERT" in refusal(folder)
