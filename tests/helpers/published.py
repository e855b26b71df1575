"""Five small checkpoints of the kinds that people publish, the same at every call.

`python tests/helpers/published.py FOLDER` writes them for
`published_values.py`, which asks Transformers what it makes of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from checkpoints import huggingface_tensors, save_huggingface, values_of
from gpt2rt import HParams
from models import LargerWeights
from torch_files import tensor, write

SHAPE = HParams(n_vocab=300, n_ctx=48, n_embd=24, n_head=3, n_layer=3)
CONTROL = ["<|user|>", "<|bot|>"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天气很好，。", "the", "cat", "##s"]
WORDS += [chr(0x4E00 + n) for n in range(SHAPE.n_vocab - len(WORDS))]  # 一, 丁, ...
TEXT = "the cats sat, naïve 👋\n 12."
TEXTS = {"chat": "<|user|>the cats<|bot|> sat", "chinese": "今天天气很好。the cats, 雨"}


def weights(hparams: HParams, seed: int) -> dict[str, NDArray[Any]]:
    return huggingface_tensors(values_of(LargerWeights(hparams, seed)))


def chat(folder: Path) -> None:
    """Control tokens beyond the vocabulary of merges."""
    hparams = replace(SHAPE, n_vocab=SHAPE.n_vocab + len(CONTROL))
    save_huggingface(folder, hparams, weights(hparams, 11))
    save_huggingface(folder / "plain", SHAPE, {})
    files = [str(folder / "plain" / name) for name in ("vocab.json", "merges.txt")]
    made = Tokenizer(models.BPE.from_file(*files))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", *CONTROL])
    made.save(str(folder / "tokenizer.json"))
    for path in [*(folder / "plain").iterdir(), folder / "vocab.json", folder / "merges.txt"]:
        path.unlink()
    (folder / "plain").rmdir()


def chinese(folder: Path) -> None:
    """BERT's `vocab.txt`."""
    save_huggingface(folder, SHAPE, weights(SHAPE, 12), eos_token_id=50256, bos_token_id=50256)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()


def value_head(folder: Path) -> None:
    tensors = weights(SHAPE, 13)
    tensors["v_head.summary.weight"] = np.ones((1, SHAPE.n_embd), np.float32)
    tensors["v_head.summary.bias"] = np.ones(1, np.float32)
    save_huggingface(folder, SHAPE, tensors)


def no_biases(folder: Path) -> None:
    tensors = {name: v for name, v in weights(SHAPE, 14).items() if not name.endswith(".bias")}
    save_huggingface(folder, SHAPE, tensors)


def bin_shards(folder: Path) -> None:
    """`torch.save`'s files, in two parts, without safetensors."""
    tensors = weights(SHAPE, 15)
    save_huggingface(folder, SHAPE, tensors)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places: dict[str, str] = {}
    for part in range(2):
        file = f"pytorch_model-{part + 1:05}-of-00002.bin"
        own = {name: np.ascontiguousarray(tensors[name]) for name in names[part::2]}
        body = {name: tensor(str(key), value) for key, (name, value) in enumerate(own.items())}
        data = {str(key): value.tobytes() for key, value in enumerate(own.values())}
        write(folder / file, body, data)
        places |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


MODELS: dict[str, Callable[[Path], None]] = {
    "chat": chat,
    "chinese": chinese,
    "value head": value_head,
    "no biases": no_biases,
    "bin shards": bin_shards,
}


def write_all(folder: Path) -> None:
    """Every model in a folder of its own, with the text that it reads."""
    for name, make in MODELS.items():
        make(folder / name)
        text = TEXTS.get(name, TEXT)
        (folder / name / "text.txt").write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
