"""Hugging Face directories and .npz files: every variant equals the oracle, the rest is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorflow")

import onnx

import reference
from checkpoints import (
    huggingface_tensors,
    save_huggingface,
    save_npz,
    save_openai,
    values_of,
)
from command_line import Command
from gpt2rt import GPT2, HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import ACTIVATIONS
from gpt2rt.bundles.manifest import CHAT_TEMPLATE, GRAPH, WEIGHTS
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.providers import Threads, open_session
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.errors import BadCheckpoint, BadText, BadTokenizer, InvalidSetting
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export import pipeline
from gpt2rt_export.onnx_graph import graph
from gpt2rt_export.onnx_graph.convert import convert
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.standard import standard
from gpt2rt_export.onnx_graph.weights import attach
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import HuggingFaceCheckpoint, NpzCheckpoint, open_checkpoint
from gpt2rt_export.tokenizers.huggingface import write_tokenizer
from gpt2rt_export.tokenizers.huggingface_files import Carried
from gpt2rt_export.verify import parity
from gpt2rt_export.verify import reference as tensorflow
from models import LargerWeights

SHAPE = HParams(n_vocab=300, n_ctx=20, n_embd=24, n_head=3, n_layer=2)
WEIGHTS_OF = LargerWeights(SHAPE, seed=5)
VALUES = values_of(WEIGHTS_OF)
TEXT = np.random.default_rng(2).integers(0, SHAPE.n_vocab, SHAPE.n_ctx).tolist()
VARIANTS = {
    "OpenAI's": SHAPE,
    "n_inner": replace(SHAPE, n_inner=40),
    "epsilon": replace(SHAPE, epsilon=1e-2),
    "unscaled": replace(SHAPE, scale_attn=False),
    "by layer": replace(SHAPE, scale_attn_by_layer=True, n_layer=3),
    "untied": replace(SHAPE, tied=False),
    **{name: replace(SHAPE, activation=name, n_layer=1) for name in ACTIVATIONS},
    "all at once": HParams(301, 11, 30, 5, 3, 50, 1e-3, "gelu", False, True, False),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_huggingface(tmp_path / "model", SHAPE, huggingface_tensors(VALUES))


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


# ---- every variant


@pytest.mark.slow
@pytest.mark.parametrize("hparams", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_equals_the_oracle(hparams: HParams, tmp_path: Path) -> None:
    """Through the files of the format, TensorFlow's graph, and both ONNX graphs."""
    weights = LargerWeights(hparams, seed=11)
    text = [token % hparams.n_vocab for token in TEXT[: hparams.n_ctx]]
    oracle = reference.logits(weights.read, hparams, text)
    tensors = huggingface_tensors(values_of(weights))
    checkpoint = open_checkpoint(save_huggingface(tmp_path / "model", hparams, tensors))
    assert checkpoint.hparams == hparams
    np.testing.assert_allclose(tensorflow.read(checkpoint, text).logits(), oracle, atol=3e-5)
    converted = convert(hparams)
    for kind, (model, wanted) in {
        "standard": standard(converted, hparams),
        "fused": fuse(converted, hparams, STORAGE["fp32"], "float32"),
    }.items():
        (tmp_path / kind).mkdir()
        attach([model], wanted, checkpoint, tmp_path / kind / WEIGHTS)
        onnx.save(model, tmp_path / kind / GRAPH)
        session = open_session(tmp_path / kind / GRAPH, Threads(1))
        slots = SLOTS[kind](session, hparams, 1)
        np.testing.assert_allclose(parity.uncached(slots, text), oracle, atol=3e-5)
        stepwise = parity.cached(slots, text, range(1, len(text)))
        np.testing.assert_allclose(stepwise, oracle[1:], atol=3e-5)


def test_every_activation_has_its_functions() -> None:
    assert set(ACTIVATIONS) == set(graph.ACTIVATIONS) == set(reference.ACTIVATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_variant_exports_in_every_precision(precision: str, tmp_path: Path) -> None:
    """The whole way, parity check included; int8 stays near the oracle."""
    hparams = VARIANTS["all at once"]
    weights = LargerWeights(hparams, seed=1)
    tensors = huggingface_tensors(values_of(weights))
    folder = save_huggingface(tmp_path / "model", hparams, tensors, eos_token_id=300)
    bundle = pipeline.export(
        Recipe("own", precision, checkpoint=folder, output=tmp_path / "bundle")
    )
    assert bundle.manifest.hparams == hparams
    model = GPT2.load(bundle.directory, threads=1)
    text = [token % hparams.n_vocab for token in TEXT[: hparams.n_ctx]]
    slots = model.new_slots(1)
    found, oracle = parity.uncached(slots, text), reference.logits(weights.read, hparams, text)
    assert np.abs(found - oracle).max() < (1e-4 if precision == "fp32" else oracle.std())


def test_values_of_transformers_itself(tmp_path: Path) -> None:
    """Beside the real thing, where it is installed: logits of a saved model and of its bundle."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=300,
        n_positions=20,
        n_embd=24,
        n_head=3,
        n_layer=2,
        activation_function="gelu",
        scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True,
        tie_word_embeddings=False,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(torch.tensor([TEXT])).logits[0].numpy()
    found = tensorflow.read(open_checkpoint(tmp_path), TEXT).logits()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# ---- the files


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


def test_general_names_and_defaults_of_the_settings(folder: Path) -> None:
    body = json.loads((folder / "config.json").read_text())
    for name, other in (("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers")):
        body[other] = body.pop(name)
    for name in ("layer_norm_epsilon", "activation_function", "n_inner", "tie_word_embeddings"):
        del body[name]
    (folder / "config.json").write_text(json.dumps(body))
    assert open_checkpoint(folder).hparams == SHAPE


def test_a_byte_order_mark_says_nothing(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8-sig")
    assert_reads(folder)
    (tmp_path / "out").mkdir()
    assert write_tokenizer(folder, 300, tmp_path / "out") == Carried()


@pytest.mark.parametrize(
    ("name", "same"),
    [("gelu_fast", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new"), ("swish", "silu")],
)
def test_activations_of_several_names(folder: Path, name: str, same: str) -> None:
    configure(folder, activation_function=name)
    assert open_checkpoint(folder).hparams.activation == same


# ---- what cannot be done


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
    folder: Path, changes: dict[str, object], fact: str
) -> None:
    configure(folder, **changes)
    assert fact in refusal(folder)


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
def test_other_weight_files_say_how_to_convert_them(folder: Path, name: str, fact: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert fact in refusal(folder)


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


def test_a_tensorflow_checkpoint_of_another_family(tmp_path: Path) -> None:
    variables = {"bert/embeddings/word_embeddings": np.zeros((2, 2), np.float32)}
    folder = save_openai(tmp_path / "model", variables, SHAPE)
    (folder / "hparams.json").unlink()
    assert "another family: BERT" in refusal(folder)


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
def test_a_file_cut_short_is_found(folder: Path, part: float) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(len(data) * part)])
    assert "model.safetensors: cannot be read" in refusal(folder)


def test_a_clone_without_its_large_files_is_known(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n"
    (folder / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal(folder)


# ---- the tokenizer


@pytest.fixture
def trained() -> Callable[..., Any]:
    """Trains a real `tokenizers` BPE with added tokens."""
    library = pytest.importorskip("tokenizers")

    def train(*specials: str, prefix: bool = False) -> Any:
        tokenizer = library.Tokenizer(library.models.BPE())
        byte_level = library.pre_tokenizers.ByteLevel
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=prefix)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=290,
            special_tokens=list(specials),
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([(Path(__file__).read_text())], trainer)
        more = [library.AddedToken("[M]", lstrip=True), library.AddedToken("[E]", rstrip=True)]
        more += [library.AddedToken("word", single_word=True), "hé llo", "zz", "zzz"]
        tokenizer.add_tokens(more)
        return tokenizer

    return train


BITS = ["<|endoftext|>", "</s>", "[M]", "[E]", "word", "hé llo", "zz", "z", " ", "\n", "  ", "the"]
BITS += ["é", "👋", "x", "_", "123", "'s", "\t", "\u00a0", "reword", "."]


@pytest.mark.parametrize("specials", [["<|endoftext|>"], ["<s>", "</s>", "<pad>"]])
@pytest.mark.parametrize("prefix", [False, True])
def test_a_tokenizer_with_added_tokens_equals_tokenizers(
    trained: Callable[..., Any], specials: list[str], prefix: bool, tmp_path: Path
) -> None:
    theirs = trained(*specials, prefix=prefix)
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 1, "bos_token_id": 0}))
    (tmp_path / "out").mkdir()
    size = theirs.get_vocab_size()
    assert write_tokenizer(tmp_path, size + 6, tmp_path / "out").left_out == ()
    ours = Tokenizer.read(tmp_path / "out")
    assert (ours.n_vocab, ours.start_of_text) == (size + 6, 0)
    random = np.random.default_rng(1)
    for _ in range(500):
        text = "".join(random.choice(BITS) for _ in range(random.integers(0, 9)))
        tokens = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special=True) == tokens
        theirs.encode_special_tokens = True  # its name for: control tokens are text
        plain = theirs.encode(text, add_special_tokens=False).ids
        theirs.encode_special_tokens = False
        assert ours.encode(text, special=False) == plain
    for token in range(size):
        assert ours.decode([token]) == theirs.decode([token], skip_special_tokens=False) or (
            token in {t.id for t in ours.special_tokens}
        )
    assert ours.decode([size, size + 5]) == "", "ids of the model alone stand for nothing"
    assert ours.decode([theirs.token_to_id("hé llo")]) == "hé llo"


@pytest.mark.parametrize("said", [None, False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "GPT2TokenizerFast", None, "Another"])
def test_who_decides_about_the_space_before_a_text(
    trained: Callable[..., Any], kind: str | None, inside: bool, said: bool | None, tmp_path: Path
) -> None:
    """Seen in Transformers 5.24: its GPT-2 tokenizers go by tokenizer_config.json alone."""
    trained("<|endoftext|>", prefix=inside).save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "add_prefix_space": said, "model_max_length": 1024}
    known = {name: value for name, value in settings.items() if value is not None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(known))
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path, 300, tmp_path / "out")
    wanted = inside if kind == "Another" else bool(said)
    assert Tokenizer.read(tmp_path / "out").prefix_space == wanted


def test_vocabulary_and_merges_are_read_where_there_is_no_tokenizer_json(
    trained: Callable[..., Any], tmp_path: Path
) -> None:
    theirs = trained("<|endoftext|>")
    theirs.model.save(str(tmp_path))
    added = {t: theirs.token_to_id(t) for t in ("[M]", "word", "zz")}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"zz": 290, "word": 291}))
    (tmp_path / "out").mkdir()
    assert len(added) == 3
    assert write_tokenizer(tmp_path, 292, tmp_path / "out") == Carried()
    ours = Tokenizer.read(tmp_path / "out")
    assert ours.encode("zz<|endoftext|>word", special=True) == [290, 0, 291]
    assert ours.end_of_text == ours.start_of_text == 0
    text = "any text <|endoftext|> zz: é 👋"
    assert ours.decode(ours.encode(text)) == text
    # A pad token that the model was never given rows for is left out, and named.
    (tmp_path / "out2").mkdir()
    assert write_tokenizer(tmp_path, 291, tmp_path / "out2").left_out == ("word",)


def test_a_vocabulary_without_every_byte_takes_the_texts_that_it_can(
    trained: Callable[..., Any], tmp_path: Path
) -> None:
    """As of a trainer that was not given all bytes: those that it never saw have no token."""
    body = json.loads(trained("<|endoftext|>").to_str())
    lost = {"~", "ł"}  # the tilde, and byte 0xa0 of a no-break space
    kept = {s: i for s, i in body["model"]["vocab"].items() if not lost & set(s)}
    body["model"]["vocab"] = {symbol: i for i, symbol in enumerate(kept)}
    body["model"]["merges"] = [m for m in body["model"]["merges"] if not lost & set("".join(m))]
    body["added_tokens"] = body["added_tokens"][:1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(body))
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path, 300, tmp_path / "out")
    ours = Tokenizer.read(tmp_path / "out")
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "any text that it can: é 👋 \x00"
    assert ours.encode(text) == theirs.encode(text).ids
    for text, byte in (("a~b", "0x7e"), ("\u00a0", "0xa0")):
        with pytest.raises(BadText, match=f"no token for byte {byte} of"):
            ours.encode(text)


def test_ends_of_a_text_other_than_openais(trained: Callable[..., Any], tmp_path: Path) -> None:
    trained("<s>", "</s>").save(str(tmp_path / "tokenizer.json"))
    for config, start, end in (
        ({"eos_token_id": 1, "bos_token_id": 0}, 0, 1),
        ({"eos_token_id": 1}, 1, 1),
        ({"eos_token_id": 50256, "bos_token_id": 50256}, 0, 1),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        names = {"eos_token": "</s>", "bos_token": {"content": "<s>"}}
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(names if start != end else {}))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        write_tokenizer(tmp_path, 300, tmp_path / "out")
        ours = Tokenizer.read(tmp_path / "out")
        assert (ours.start_of_text, ours.end_of_text) == (start, end)
    (tmp_path / "config.json").unlink()
    path.unlink()
    with pytest.raises(BadTokenizer, match="no token ends a text"):
        write_tokenizer(tmp_path, 300, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"model": {"type": "WordPiece"}}, "a WordPiece tokenizer"),
        ({"model": {"type": "Unigram"}}, "a Unigram tokenizer"),
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "the pre-tokenizer is Whitespace"),
        ({"pre_tokenizer": None}, "the pre-tokenizer is none"),
        ({"model": None}, "has no model"),
        ({"added_tokens": [3]}, "is no added token"),
    ],
)
def test_tokenizers_of_another_kind_are_refused_by_name(
    trained: Callable[..., Any], changes: dict[str, Any], fact: str, tmp_path: Path
) -> None:
    body = json.loads(trained("<|endoftext|>").to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**body, **changes}))
    with pytest.raises(BadTokenizer, match=re.escape(fact)):
        write_tokenizer(tmp_path, 300, tmp_path)


def test_a_tokenizer_that_is_not_the_models_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadTokenizer, match="300 tokens, but the model's n_vocab is 50257"):
        write_tokenizer(folder, 50257, tmp_path / "out")
    with pytest.raises(BadTokenizer, match="300 tokens, but the model's n_vocab is 280"):
        write_tokenizer(folder, 280, tmp_path / "out")
    (folder / "merges.txt").unlink()
    (folder / "vocab.json").unlink()
    (folder / "vocab.txt").touch()
    with pytest.raises(BadTokenizer, match="a WordPiece"):
        write_tokenizer(folder, 300, tmp_path / "out")


def test_merges_cut_short_are_found_and_named(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "merges.txt").read_text().splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[: len(lines) // 2]))
    (tmp_path / "out").mkdir()
    with pytest.raises(BadTokenizer, match=r"model/merges\.txt: .* made by no merge"):
        write_tokenizer(folder, 300, tmp_path / "out")


# ---- .npz


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


# ---- the command line


@pytest.mark.slow
def test_a_directory_is_exported_and_found_by_its_name(
    command: Command, folder: Path, home: Path
) -> None:
    ended = command("export", folder, "--int8")
    assert ended.code == 0, ended.err
    assert (home / "bundles" / "model-int8").is_dir()
    assert "Try it: gpt2rt generate --model model-int8" in ended.out
    for name in ("model-int8", "model"):
        ended = command(
            "generate", "--model", name, "x", "--length", "3", "--no-end-of-text", "--json"
        )
        assert len(ended.records[0]["tokens"]) == 3


@pytest.mark.slow
def test_how_it_is_generated_with_is_carried(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    settings = {"do_sample": True, "temperature": 0.7, "top_p": "hot", "max_length": 9}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    ended = command("export", folder, "--no-verify", "--output", tmp_path / "out")
    assert "top_p is not used" in " ".join(ended.err.split())
    assert "max_length is not carried" in " ".join(ended.err.split())
    assert GPT2.load(tmp_path / "out").defaults.named == {"temperature": 0.7}


@pytest.mark.slow
def test_the_chat_template_is_carried(command: Command, folder: Path, tmp_path: Path) -> None:
    """Only how it is rendered is tested with the server."""
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ eos_token }}"}')
    ended = command("export", folder, "--no-verify", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert CHAT_TEMPLATE in Bundle.open(tmp_path / "out").manifest.files
    written = (tmp_path / "out" / CHAT_TEMPLATE).read_text()
    assert written == '{% set eos_token = "<|endoftext|>" %}\n{{ eos_token }}'


@pytest.mark.slow
def test_a_model_may_have_many_more_ids_than_its_own_tokenizer(
    command: Command, tmp_path: Path
) -> None:
    """As of a small tokenizer beside `GPT2Config`'s default vocabulary."""
    hparams = replace(SHAPE, n_vocab=3000)
    tensors = huggingface_tensors(values_of(LargerWeights(hparams, 1)))
    folder = save_huggingface(tmp_path / "model", hparams, tensors)
    words = save_huggingface(tmp_path / "words", SHAPE, {})
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(words / name, folder / name)
    ended = command("export", folder, "--tokenizer", words, "--output", tmp_path / "out")
    assert "300 tokens, but the model's n_vocab is 3000" in ended.err
    ended = command("export", folder, "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert GPT2.load(tmp_path / "out").tokenizer.n_vocab == 3000


@pytest.mark.slow
def test_a_tokenizer_from_elsewhere(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).rename(tmp_path / "words" / name)
    ended = command("export", folder, "--output", tmp_path / "out")
    assert ended.code == 1
    assert "no tokenizer there" in ended.err
    assert "--tokenizer DIR" in ended.err
    ended = command(
        "export", folder, "--output", tmp_path / "out", "--tokenizer", tmp_path / "words"
    )
    assert ended.code == 0, ended.err


def test_a_directory_of_a_released_name_needs_an_output(command: Command, folder: Path) -> None:
    place = folder.rename(folder.with_name("117M"))
    ended = command("export", place)
    assert ended.code == 2
    assert "a bundle cannot be called '117M'; add --output DIR" in ended.in_one_line()
    assert (
        "is a checkpoint itself"
        in command("export", place, "--random-weights", "--output", "x").err
    )


def test_the_recipe_takes_a_name_of_the_users_own() -> None:
    assert Recipe("my-model", checkpoint=Path("x")).namesake is None
    with pytest.raises(InvalidSetting):
        Recipe("my-model", precision="int7")
    assert isinstance(HuggingFaceCheckpoint, type)
