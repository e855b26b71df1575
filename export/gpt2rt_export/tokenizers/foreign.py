"""Writes a tokenizer that is not GPT-2's byte-level BPE as the bundle's `tokenizer.json`.

A `tokenizer.json` is taken over as it is. BERT's `vocab.txt`, which most Chinese GPT-2s have, is
converted as Transformers' BertTokenizer does it. SentencePiece's own files are refused, with the
remedy: Transformers writes a `tokenizer.json` for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2rt.bundles.catalog import SPECIAL_TOKENS, TOKENIZER
from gpt2rt.errors import BadTokenizer, reason
from gpt2rt.text.foreign_tokenizer import ForeignTokenizer, load
from gpt2rt.text.special_tokens import SpecialToken, SpecialTokens
from gpt2rt_export.tokenizers.huggingface_files import (
    ADDED,
    CONFIG,
    FAST,
    MOST_PADDING,
    OTHERS,
    SLOW,
    Carried,
    added_tokens,
    configured_tokens,
    listed_control_tokens,
    model_settings,
    read_json,
    read_optional,
    special_token_texts,
)
from gpt2rt_export.tokenizers.post_processor import around
from gpt2rt_export.tokenizers.text_ends import ends_of

WORDPIECE = "vocab.txt"
NAMES = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "SEP", "PAD", "CLS", "MASK")}
# Classes of Transformers whose `vocab.txt` is read as BERT's.
BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "PreTrainedTokenizer")
BEYOND_GPT2 = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


def is_foreign(directory: Path) -> bool:
    """Whether a Hugging Face tokenizer is of another kind than GPT-2's."""
    if not (directory / FAST).is_file():
        others = any((directory / name).is_file() for name in OTHERS)
        return others and not all((directory / name).is_file() for name in SLOW)
    body = read_json(directory / FAST)
    model, pieces = body.get("model"), body.get("pre_tokenizer")
    if not isinstance(model, dict):
        return False  # damaged: the reader of GPT-2's kind raises for it
    if model.get("type", "BPE") != "BPE" or body.get("normalizer"):
        return True
    byte_level = isinstance(pieces, dict) and pieces.get("type") == "ByteLevel"
    plain = byte_level and pieces.get("use_regex", True)  # type: ignore[union-attr]
    return not plain or any(model.get(name) for name in BEYOND_GPT2)


def write_foreign(directory: Path, n_vocab: int, work: Path, own: bool = True) -> Carried:
    """Write `tokenizer.json` and `special_tokens.json` for a model of `n_vocab` ids into `work`.

    Added tokens without a row in the model are left out. Tokens that the tokenizer puts around a
    text, such as BERT's `[CLS]` and `[SEP]`, are put around a prompt, too, as in Transformers.
    `own`: it is the model's own tokenizer, whose size may differ. Raises `BadTokenizer`, and
    `MissingExtra` where the library `tokenizers` is not installed.
    """
    path = directory / FAST
    if path.is_file():
        body = read_json(path)
    else:
        path = directory / WORDPIECE
        body = _wordpiece(path)
    if body["model"].get("dropout"):
        raise BadTokenizer(f"{path}: dropout makes tokens by chance; save the tokenizer without it")
    listed = body.get("added_tokens") or []
    added = added_tokens(listed, path).values()
    left_out = [token.text for token in added if token.id >= n_vocab]
    body["added_tokens"] = [token for token in listed if token["id"] < n_vocab]
    text = json.dumps(body, ensure_ascii=False)
    try:
        _, library = load(text)
    except BadTokenizer as error:
        raise BadTokenizer(f"{path}: {error}; fetch it again") from None
    vocabulary: dict[str, int] = library.get_vocab()
    beyond = sum(token >= n_vocab for token in vocabulary.values())
    if not own and max(beyond, n_vocab - len(vocabulary)) > MOST_PADDING:
        raise BadTokenizer(
            f"{directory}: {len(vocabulary)} tokens, but the model's n_vocab is {n_vocab}; "
            "name the model's own tokenizer with --tokenizer DIR"
        )
    special = _special(directory, library, body, n_vocab, path)
    (work / TOKENIZER).write_text(text, encoding="utf-8")
    (work / SPECIAL_TOKENS).write_text(special.to_json(), encoding="utf-8")
    ForeignTokenizer.read(work)
    words = {token: word for word, token in vocabulary.items()}
    control = {token.id for token in special.tokens if token.special}
    ordinary = tuple(f"{i} ({words[i]})" for i in special.ends or () if i in words.keys() - control)
    return Carried(tuple(left_out), ordinary, beyond)


def _special(
    directory: Path, library: Any, body: Mapping[str, Any], n_vocab: int, path: Path
) -> SpecialTokens:
    """The tokens that begin and end a text, that are put around it, and that are found in it."""
    tokens = tuple(
        SpecialToken(
            number,
            token.content,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
            special=token.special,
            normalized=token.normalized,
        )
        for number, token in sorted(library.get_added_tokens_decoder().items())
    )
    before, after = around(body.get("post_processor"), path)
    if odd := [token for token in (*before, *after) if token >= n_vocab]:
        raise BadTokenizer(
            f"{path}: puts token {odd[0]} around every text, and the model's n_vocab is {n_vocab}; "
            "name the model's own tokenizer with --tokenizer DIR"
        )
    named = special_token_texts(directory)
    if body["model"].get("type") == "WordPiece":
        named = {**NAMES, **named}
    # BERT's separator ends its texts, and its first token begins them, where no other is named.
    for kind, other in (("eos_token", "sep_token"), ("bos_token", "cls_token")):
        if kind not in named and other in named:
            named[kind] = named[other]
    vocabulary, ids = library.get_vocab(), {token.text: token.id for token in tokens}
    ends = ends_of(model_settings(directory), named, vocabulary, ids, n_vocab, directory)
    start = before[0] if before else ends.start
    return SpecialTokens(n_vocab, start, ends.end, tokens, False, ends.all, before, after)


# ---- BERT's vocab.txt


def _wordpiece(path: Path) -> dict[str, Any]:
    """The body of the `tokenizer.json` that Transformers makes of a `vocab.txt`."""
    directory = path.parent
    config, named = read_optional(directory / CONFIG), {**NAMES, **special_token_texts(directory)}
    _check_kind(config, path)
    vocabulary = _read_vocabulary(path)
    if named["unk_token"] not in vocabulary:
        raise BadTokenizer(
            f"{path}: has no {named['unk_token']}, which stands for words it does not know; "
            f"name the right one in {CONFIG}, as unk_token"
        )
    lower = bool(config.get("do_lower_case", True))
    cls, sep = (named[f"{kind}_token"] for kind in ("cls", "sep"))
    processor = None
    if cls in vocabulary and sep in vocabulary:
        processor = {"type": "BertProcessing", "sep": [sep, vocabulary[sep]]}
        processor["cls"] = [cls, vocabulary[cls]]
    return {
        "version": "1.0",
        "added_tokens": _added_tokens(directory, config, named, vocabulary),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
            "strip_accents": config.get("strip_accents"),
            "lowercase": lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": processor,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": named["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }


def _check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Raises `BadTokenizer` for a tokenizer that is not BERT's, made of a `vocab.txt`."""
    kind = str(config.get("tokenizer_class") or BERTS[0])
    known = kind.removesuffix("Fast") in BERTS
    if path.is_file() and known:
        return
    found = next(name for name in OTHERS if (path.parent / name).is_file())
    what = OTHERS[found] if known else f"{kind} ({found})"
    raise BadTokenizer(
        f"{path.parent}: a {what} tokenizer, which is not read as it is; let Transformers save it "
        f"as {FAST}: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
    )


def _read_vocabulary(path: Path) -> dict[str, int]:
    """Symbol -> id of a `vocab.txt`: one symbol a line, its id the number of the line from 0."""
    try:
        with path.open(encoding="utf-8") as file:
            return {line.rstrip("\n"): number for number, line in enumerate(file)}
    except (OSError, UnicodeDecodeError) as error:
        raise BadTokenizer(f"{path}: cannot be read ({reason(error)}); fetch it again") from None


def _added_tokens(
    directory: Path, config: Mapping[str, Any], named: Mapping[str, str], vocabulary: dict[str, int]
) -> list[dict[str, Any]]:
    """Control tokens and tokens added to the vocabulary, in the form of `tokenizer.json`."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    beside = directory / ADDED
    more = read_optional(beside)
    if odd := [text for text, number in more.items() if type(number) is not int]:
        raise BadTokenizer(f"{beside}: the id of {odd[0]!a:.40} is no whole number")
    control = {*named.values(), *listed_control_tokens(directory)}
    vocabulary.update(more)  # else the library numbers them anew
    ids = {**{text: vocabulary[text] for text in control if text in vocabulary}, **more}
    found = {}
    for text, number in ids.items():
        own = {**flags, "special": text in control, "normalized": text not in control}
        found[text] = {"id": number, "content": text, **own}
    for text, token in configured_tokens(config, directory / CONFIG).items():
        own = {name: getattr(token, name) for name in (*flags, "special")}
        found[text] = {"id": vocabulary.setdefault(text, token.id), "content": text, **own}
    return sorted(found.values(), key=lambda token: token["id"])
