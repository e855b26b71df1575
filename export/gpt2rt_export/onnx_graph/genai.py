"""Writes the files with which onnxruntime-genai can load a standard bundle.

They are a second graph over the same weights, `genai_config.json`, and the tokenizer in Hugging
Face's format. onnxruntime-genai has keys and values of every layer as tensors of their own, not
OpenAI's combined `past`, so the second graph joins and splits them. It has no attention mask, so
its batch is fixed at 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpt2rt.bundles.catalog import ENCODER, MERGES
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import X, past, present
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt.text.tokenizers import TextTokenizer, read_tokenizer

GRAPH = "genai.onnx"
CONFIG = "genai_config.json"
NAMES = {
    "input_ids": "input_ids",
    "past_key_names": "past_key_values.%d.key",
    "past_value_names": "past_key_values.%d.value",
}
OUTPUTS = {
    "logits": "logits",
    "present_key_names": "present.%d.key",
    "present_value_names": "present.%d.value",
}


def write_genai(standard: onnx.ModelProto, hparams: HParams, directory: Path) -> None:
    """Write the graph, its settings and the tokenizer into the bundle's directory."""
    onnx.save(genai(standard, hparams), directory / GRAPH)
    tokenizer = read_tokenizer(directory)
    (directory / CONFIG).write_text(json.dumps(config(hparams, tokenizer), indent=2) + "\n")
    files = tokenizer_files(directory, tokenizer) if isinstance(tokenizer, Tokenizer) else {}
    for name, body in files.items():
        text = json.dumps(body, indent=1, ensure_ascii=False)
        (directory / name).write_text(text + "\n", encoding="utf-8")


def genai(standard: onnx.ModelProto, hparams: HParams) -> onnx.ModelProto:
    """The standard graph for one sequence, with keys and values of each layer as own tensors."""
    model = onnx.ModelProto()
    model.CopyFrom(standard)
    graph = model.graph
    pasts = [name % i for i in range(hparams.n_layer) for name in _pair(NAMES, "past")]
    presents = [name % i for i in range(hparams.n_layer) for name in _pair(OUTPUTS, "present")]
    nodes = [*_join(pasts, hparams), *graph.node, *_split(presents, hparams)]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    for name, value in _shapes(hparams).items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    before, after = (
        [1, hparams.n_head, length, hparams.head_width] for length in ("past", "total")
    )
    value = helper.make_tensor_value_info
    graph.input.append(value(NAMES["input_ids"], TensorProto.INT64, [1, "sequence"]))
    graph.input.extend(value(name, TensorProto.FLOAT, before) for name in pasts)
    logits = value(OUTPUTS["logits"], TensorProto.FLOAT, [1, "sequence", hparams.n_vocab])
    graph.output.append(logits)
    graph.output.extend(value(name, TensorProto.FLOAT, after) for name in presents)
    return model


def _pair(names: dict[str, str], kind: str) -> tuple[str, str]:
    return names[f"{kind}_key_names"], names[f"{kind}_value_names"]


def _shapes(hparams: HParams) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    return {
        "genai/front": np.array([1, hparams.n_layer, 2, hparams.n_head], np.int64),
        "genai/width": np.array([hparams.head_width], np.int64),
        "genai/layers": np.array([2 * hparams.n_layer, hparams.n_head, -1, hparams.head_width]),
    }


def _join(pasts: list[str], hparams: HParams) -> list[onnx.NodeProto]:
    """2L tensors [1,H,P,W] -> `past` [1,L,2,H,P,W]; P may be 0, so no size can be inferred."""
    node = helper.make_node
    return [
        node("Cast", [NAMES["input_ids"]], [X.name], to=TensorProto.INT32),
        node("Concat", pasts, ["genai/pasts"], axis=0),
        node("Shape", ["genai/pasts"], ["genai/length"], start=2, end=3),
        node("Concat", ["genai/front", "genai/length", "genai/width"], ["genai/shape"], axis=0),
        node("Reshape", ["genai/pasts", "genai/shape"], [past(hparams).name], allowzero=1),
    ]


def _split(presents: list[str], hparams: HParams) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Reshape", [present(hparams).name, "genai/layers"], ["genai/presents"]),
        node("Split", ["genai/presents"], presents, axis=0, num_outputs=len(presents)),
    ]


def config(hparams: HParams, tokenizer: TextTokenizer) -> dict[str, Any]:
    """The content of `genai_config.json`: greedy by default, up to the context's length."""
    end = tokenizer.end_of_text
    return {
        "model": {
            "type": "decoder",  # its "gpt2" wants every layer's k and v in one tensor
            "bos_token_id": tokenizer.start_of_text,
            "eos_token_id": end,
            "pad_token_id": end,
            "context_length": hparams.n_ctx,
            "vocab_size": hparams.n_vocab,
            "decoder": {
                "filename": GRAPH,
                "session_options": {"provider_options": []},
                "num_hidden_layers": hparams.n_layer,
                "num_attention_heads": hparams.n_head,
                "num_key_value_heads": hparams.n_head,
                "hidden_size": hparams.n_embd,
                "head_size": hparams.head_width,
                "inputs": NAMES,
                "outputs": OUTPUTS,
            },
        },
        "search": {"max_length": hparams.n_ctx, "past_present_share_buffer": False},
    }


# Of `tokenizer.json`: properties of an added token, and the fields of a model that GPT-2's has.
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "fuse_unk": False,
}


def tokenizer_files(directory: Path, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """`tokenizer.json` and `tokenizer_config.json` of the bundle's own vocabulary."""
    encoder = json.loads((directory / ENCODER).read_text(encoding="utf-8"))
    merges = (directory / MERGES).read_text(encoding="utf-8").split("\n")[1:]
    added = [
        {"id": token.id, "content": token.text, **{name: getattr(token, name) for name in FLAGS}}
        for token in tokenizer.special_tokens
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": tokenizer.prefix_space,
        "trim_offsets": False,
        "use_regex": True,
    }
    fast = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {**BPE, "vocab": encoder, "merges": [merge for merge in merges if merge]},
    }
    texts = {token.id: token.text for token in tokenizer.special_tokens}
    slow = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": tokenizer.prefix_space,
        "bos_token": texts.get(tokenizer.start_of_text),
        "eos_token": texts.get(tokenizer.end_of_text),
        "unk_token": texts.get(tokenizer.end_of_text),
    }
    return {"tokenizer.json": fast, "tokenizer_config.json": slow}
