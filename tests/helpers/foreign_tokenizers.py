"""Tokenizers of the `tokenizers` library, of every kind, and directories with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from checkpoints import huggingface_config
from gpt2rt import HParams
from gpt2rt.text.foreign_tokenizer import ForeignTokenizer
from gpt2rt.text.tokenizers import read_tokenizer
from gpt2rt_export.tokenizers.foreign import is_foreign, write_foreign

N_VOCAB = 300
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHINESE = "今天气很好，。"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "cat", "sat", "##s", "##ing", "don", "'", "t", ".", "!"]
WORDS += [*CHINESE, *(f"##{letter}" for letter in "abcdeg"), *"abcd"]
TEXTS = [
    "the cat sat.",
    "The CATS, sitting  on\tthe mat!",
    "今天天气很好。the cat",
    "don't sat",
    "caté ab",
    "①ﬁ the",
]


def wordpiece() -> Tokenizer:
    """BERT's tokenizer, as Transformers makes it from a `vocab.txt`."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    made.add_special_tokens(SPECIAL)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def unigram() -> Tokenizer:
    """A tokenizer like SentencePiece's: NFKC, white space as a symbol, byte fallback."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in (0xE2, 0x82, 0xAC, 0x41))]
    pieces += ["▁", "▁the", "▁cat", "s", "▁sat", *CHINESE, *LETTERS, ".", "!", ",", "'", "1"]
    scores = [(piece, -float(len(pieces) - i) / len(piece)) for i, piece in enumerate(pieces)]
    made = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(["</s>"])
    return made


def metaspace() -> Tokenizer:
    made = unigram()
    pieces = [(p, s) for p, s in json.loads(made.to_str())["model"]["vocab"]]
    made.model = models.Unigram(pieces, unk_id=0)
    made.decoder = decoders.Metaspace()
    return made


def whitespace_bpe() -> Tokenizer:
    """BPE over words, without bytes; its decoder joins by spaces."""
    symbols = ["<unk>", "<eos>", *LETTERS, *CHINESE, *".,!'", "th", "the", "ca", "cat"]
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t")]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens(["<eos>"])
    return made


def split_byte_level() -> Tokenizer:
    """Byte-level BPE that splits texts differently from GPT-2."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*"!',.", *LETTERS, "Ġ", *sorted(set(symbols) - {*LETTERS, *"!',.", "Ġ"})]
    made = Tokenizer(models.BPE({s: i for i, s in enumerate(["<eos>", *symbols])}, []))
    steps = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<eos>"])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": wordpiece,
    "unigram": unigram,
    "metaspace": metaspace,
    "whitespace bpe": whitespace_bpe,
    "split byte-level": split_byte_level,
}


def rows(made: Tokenizer) -> int:
    return max(N_VOCAB, made.get_vocab_size())


def save(folder: Path, made: Tokenizer, **settings: Any) -> Path:
    """A directory as Transformers saves a model's tokenizer."""
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = huggingface_config(SHAPE, eos_token_id=1, **settings)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def exported(folder: Path, n_vocab: int = N_VOCAB, own: bool = True) -> ForeignTokenizer:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    assert is_foreign(folder)
    write_foreign(folder, n_vocab, work, own=own)
    found = read_tokenizer(work)
    assert isinstance(found, ForeignTokenizer)
    return found


def save_wordpiece(folder: Path, **settings: object) -> Path:
    """A Chinese GPT-2 in the published form: `vocab.txt` and `config.json`."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    config = huggingface_config(SHAPE, eos_token_id=50256, bos_token_id=50256)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


SHAPE = HParams(n_vocab=N_VOCAB, n_ctx=32, n_embd=32, n_head=2, n_layer=1)
