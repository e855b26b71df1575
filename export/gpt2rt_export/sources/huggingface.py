"""Reads a GPT-2 of Hugging Face's Transformers: `config.json` with `model.safetensors` or
`pytorch_model.bin`, in one file or sharded.

The variants are options of `GPT2Config`. A safetensors file has no checksums: its header is checked
against its size and `config.json`, the values must be finite, and `identity` is the sha256 that the
Hugging Face Hub shows beside each file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gpt2rt.bundles.files import sha256
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.manifest import is_name
from gpt2rt.errors import BadCheckpoint, reason
from gpt2rt_export.sources.checkpoint import Array, first_line
from gpt2rt_export.sources.state_dict import StateDict, Tensor
from gpt2rt_export.sources.torch_file import TorchFile

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_WEIGHTS = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"

# hparams: names in config.json (the later one is Transformers' general one), default of GPT2Config
SETTINGS: dict[str, tuple[tuple[str, ...], object]] = {
    "n_vocab": (("vocab_size",), 50257),
    "n_ctx": (("n_positions", "max_position_embeddings", "n_ctx"), 1024),
    "n_embd": (("n_embd", "hidden_size"), 768),
    "n_head": (("n_head", "num_attention_heads"), 12),
    "n_layer": (("n_layer", "num_hidden_layers"), 12),
    "n_inner": (("n_inner",), None),
    "epsilon": (("layer_norm_epsilon",), 1e-5),
    "activation": (("activation_function",), "gelu_new"),
    "scale_attn": (("scale_attn_weights",), True),
    "scale_attn_by_layer": (("scale_attn_by_inverse_layer_idx",), False),
    "tied": (("tie_word_embeddings",), True),
}
# Other names of the same functions. (`reorder_and_upcast_attn` changes no function either.)
SAME_ACTIVATION = {
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python": "gelu",
    "swish": "silu",
}
# Options of a GPT-2 of Transformers that cannot be exported.
REFUSED = {
    "add_cross_attention": "cross-attention: only a decoder without encoder can be exported",
    "quantization_config": "quantised weights: save the model in float32, float16 or bfloat16",
    "pruned_heads": "pruned attention heads",
    "auto_map": "code of its own: only Transformers' own GPT-2 can be exported",
}
CLASSIFIERS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")
POINTER = b"version https://git-lfs"
POINTED = "Git LFS's note of a file, not the file itself; get it with `git lfs pull`"


class HuggingFaceCheckpoint:
    """A directory that `save_pretrained` wrote, or a clone of a model from the Hub.

    Raises `BadCheckpoint` for another family of models, for an option that cannot be exported, for
    files that are missing or damaged, and for tensors missing, misshapen or unknown, all at once.
    """

    def __init__(self, directory: Path) -> None:
        self.origin = str(directory)
        self.tokenizer = directory
        config = read_json(directory / CONFIG)
        self.hparams = _hparams(config, directory / CONFIG)
        self.files = _files(directory)
        tensors = _tensors(self.files)
        self._tensors = StateDict(tensors, self.hparams, self.origin, CONFIG)
        if self.hparams.tied and self._tensors.has_own_head:
            raise BadCheckpoint(
                f"{self.origin}: lm_head.weight is not wte.weight, though {CONFIG} ties them; "
                "if the model was trained untied, set tie_word_embeddings to false there"
            )

    @property
    def unused(self) -> list[str]:
        return self._tensors.unused

    @property
    def notes(self) -> list[str]:
        return self._tensors.notes

    @property
    def identity(self) -> str:
        hashes = (f"{path.name} {sha256(path)}" for path in self.files)
        return f"Hugging Face checkpoint, sha256 of {', '.join(hashes)}"

    def read(self, name: str) -> Array:
        return self._tensors.read(name)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `BadCheckpoint`."""
    try:
        values = json.loads(
            path.read_text(encoding="utf-8-sig")
        )  # some editors put a byte order mark there
    except FileNotFoundError:
        raise BadCheckpoint(f"{path}: no such file; a Hugging Face model has one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path}: cannot be read as JSON ({reason(error)})") from None
    if not isinstance(values, dict):
        raise BadCheckpoint(f"{path}: holds {type(values).__name__}, not an object")
    return values


def _hparams(config: Mapping[str, Any], path: Path) -> HParams:
    family = config.get("model_type", "gpt2")
    if family != "gpt2":
        raise BadCheckpoint(f"{path}: a model of the family {family!r}; only gpt2 can be exported")
    if refused := [reason for name, reason in REFUSED.items() if config.get(name)]:
        raise BadCheckpoint(f"{path}: {'; '.join(refused)}")
    kinds = config.get("architectures")
    names = map(str, kinds) if isinstance(kinds, list) else ()
    if odd := [name for name in names if name.endswith(CLASSIFIERS)]:
        raise BadCheckpoint(f"{path}: {odd[0]} is a classifier, not a language model")
    values = {
        ours: next((config[name] for name in names if name in config), default)
        for ours, (names, default) in SETTINGS.items()
    }
    values["activation"] = _activation(values["activation"])
    return HParams.from_dict(values, str(path))


def _activation(name: object) -> object:
    return SAME_ACTIVATION.get(name, name) if isinstance(name, str) else name


def _files(directory: Path) -> list[Path]:
    """The files of the weights: one, or the shards that the index names."""
    for weights, index in ((WEIGHTS, INDEX), (TORCH_WEIGHTS, TORCH_INDEX)):
        if (directory / weights).is_file():
            return [directory / weights]
        if (directory / index).is_file():
            names = _shards(directory / index)
            lost = [name for name in names if not (directory / name).is_file()]
            if lost:
                raise BadCheckpoint(f"{directory}: {', '.join(lost)} missing, which {index} names")
            return [directory / name for name in names]
    raise BadCheckpoint(_no_weights(directory))


def _shards(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BadCheckpoint(f"{index}: has no weight_map; fetch it again")
    names = sorted({str(name) for name in places.values()})
    if odd := [name for name in names if not is_name(name)]:
        raise BadCheckpoint(f"{index}: {odd[0]!a:.60} is not the name of a file beside it")
    return names


def _no_weights(directory: Path) -> str:
    """The message for a directory without weights that can be read, with the remedy."""
    if list(directory.glob("adapter_*")):
        return (
            f"{directory}: an adapter, not a model; merge it into its model first "
            "(merge_and_unload() and save_pretrained(), Python package peft)"
        )
    others = [*directory.glob("pytorch_model-*"), *directory.glob("tf_model.h5")]
    others += directory.glob("flax_model.msgpack")
    if others:
        return (
            f"{directory}: {others[0].name} but no {WEIGHTS}; convert it where Transformers is "
            "installed: GPT2LMHeadModel.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
    if list(directory.glob("model-*-of-*.safetensors")):
        return f"{directory}: {INDEX} missing, which says what is in each of the files; fetch it"
    if others := list(directory.glob("*.safetensors")):
        found = others[0].name
        return f"{directory}: {found} but no {WEIGHTS}; if it is the whole model, call it so"
    return f"{directory}: {WEIGHTS} missing; fetch the model again"


def _is_pointer(path: Path) -> bool:
    """Whether a file is a pointer of Git LFS in place of the file itself."""
    try:
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False


def _tensors(files: list[Path]) -> dict[str, Tensor]:
    """Name -> tensor of all files; only their headers are read. Raises `BadCheckpoint`."""
    found: dict[str, Tensor] = {}
    home: dict[str, Path] = {}
    for path in files:
        if _is_pointer(path):
            raise BadCheckpoint(f"{path}: {POINTED}")
        part = TorchFile(path).state_dict() if path.suffix == ".bin" else _safetensors(path)
        for name in part:
            if name in home:
                raise BadCheckpoint(f"{path}: holds {name}, as {home[name].name} does")
            home[name] = path
        found |= part
    return found


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    found = {}
    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                part = file.get_slice(name)
                values = partial(_values, path, name)
                found[name] = Tensor(tuple(part.get_shape()), part.get_dtype(), values)
    except Exception as error:  # safetensors has a type of its own
        raise BadCheckpoint(
            f"{path}: cannot be read ({first_line(error)}); the file is cut short or damaged: "
            "fetch it again"
        ) from None
    return found


def _values(path: Path, name: str) -> NDArray[Any]:
    """One tensor of a safetensors file."""
    import ml_dtypes  # noqa: F401  # teaches NumPy what bfloat16 is
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            values: NDArray[Any] = file.get_tensor(name)
    except Exception as error:  # safetensors has a type of its own, NumPy others
        raise BadCheckpoint(
            f"{path}: tensor {name} cannot be read ({first_line(error)}); fetch the file again"
        ) from None
    return values
