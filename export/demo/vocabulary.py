"""Learns the demo model's byte-level BPE with `tokenizers`, and writes OpenAI's two files.

Ids are laid out as in GPT-2: the 256 single bytes, the merges in the order they were learnt, and
`<|endoftext|>` last. `gpt2rt.text.tokenizer` reads the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

END_OF_TEXT = "<|endoftext|>"
N_MERGES = 1000


def learn(texts: Iterable[str], n_merges: int = N_MERGES) -> Tokenizer:
    """A BPE over all 256 bytes, split by GPT-2's pattern, still without `<|endoftext|>`."""
    alphabet = ByteLevel.alphabet()
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + n_merges, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of `<|endoftext|>`: the one after the last merge."""
    return int(tokenizer.get_vocab_size())


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `encoder.json` and `vocab.bpe` as OpenAI does: escaped JSON, one merge a line."""
    encoder = dict(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    encoder[END_OF_TEXT] = end_of_text(tokenizer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
