"""Writes a Hugging Face byte-level BPE, GPT-2's kind, as the bundle's tokenizer.

The bundle gets `encoder.json`, `vocab.bpe` and `special_tokens.json`. They are made of
`tokenizer.json`, or else of `vocab.json`, `merges.txt` and `added_tokens.json`; the names of
special tokens are from `tokenizer_config.json`, `special_tokens_map.json` and `config.json`. Other
kinds of tokenizers are written by `foreign`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2rt.bundles.catalog import ENCODER, MERGES, SPECIAL_TOKENS
from gpt2rt.errors import BadTokenizer, reason
from gpt2rt.text.special_tokens import SpecialToken, SpecialTokens
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt.text.vocabulary_files import END_OF_TEXT, REMEDY
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
from gpt2rt_export.tokenizers.post_processor import NOTHING, Around, around
from gpt2rt_export.tokenizers.text_ends import ends_of
from gpt2rt_export.tokenizers.vocabulary import write_vocabulary

MARKED = re.compile(r"<.*>|\[.*\]")  # the usual form of tokens that no merge makes


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE: symbol -> id, merges in order, and added tokens by their texts.

    `prefix_space`: a space is put before every text; `around`: ids put before and after one.
    """

    encoder: dict[str, int]
    merges: list[tuple[str, str]]
    added: dict[str, SpecialToken]
    prefix_space: bool
    around: Around = NOTHING


def write_tokenizer(directory: Path, n_vocab: int, work: Path, own: bool = False) -> Carried:
    """Write the bundle's tokenizer files for a model of `n_vocab` ids into `work`.

    `own`: it is the model's own tokenizer, whose size may differ. Raises `BadTokenizer` for damaged
    files, for another kind of tokenizer, and, unless it is the model's own, for one with ids beyond
    `n_vocab` or with fewer ids than `n_vocab - MOST_PADDING`.
    """
    vocabulary = _read(directory)
    if not own:
        _check_size(vocabulary, n_vocab, directory)
    left_out = [token.text for token in vocabulary.added.values() if token.id >= n_vocab]
    vocabulary = _separate_added(vocabulary, n_vocab)
    tokens = tuple(sorted(vocabulary.added.values(), key=lambda token: token.id))
    ids = {token.text: token.id for token in tokens}
    ends = ends_of(
        model_settings(directory),
        special_token_texts(directory),
        vocabulary.encoder,
        ids,
        n_vocab,
        directory,
    )
    before, after = vocabulary.around
    if odd := [token for token in (*before, *after) if not 0 <= token < n_vocab]:
        raise BadTokenizer(
            f"{directory}: puts token {odd[0]} around every text, and the model's n_vocab is "
            f"{n_vocab}; name the model's own tokenizer with --tokenizer DIR"
        )
    special = SpecialTokens(
        n_vocab, ends.start, ends.end, tokens, vocabulary.prefix_space, ends.all, before, after
    )
    write_vocabulary(work, vocabulary.encoder, vocabulary.merges)
    (work / SPECIAL_TOKENS).write_text(special.to_json(), encoding="utf-8")
    _check_written(work, directory)
    words = {token: text for text, token in vocabulary.encoder.items()}
    ordinary = [f"{end} ({words[end]})" for end in ends.all if end in words.keys() - ids.values()]
    beyond = sum(token >= n_vocab for token in vocabulary.encoder.values())
    return Carried(tuple(left_out), tuple(ordinary), beyond, ends.makeshift)


def _check_written(work: Path, directory: Path) -> None:
    """Raises `BadTokenizer`, which names the files in `directory`, for files in `work`."""
    try:
        Tokenizer.read(work)
    except BadTokenizer as error:
        text = str(error).replace(REMEDY, "fetch the tokenizer's files again")
        for ours, theirs in ((ENCODER, SLOW[0]), (MERGES, SLOW[1]), (SPECIAL_TOKENS, FAST)):
            mine = directory / (theirs if (directory / theirs).is_file() else FAST)
            text = text.replace(str(work / ours), str(mine)).replace(ours, mine.name)
        raise BadTokenizer(text) from None


# ---- reading


def _read(directory: Path) -> Vocabulary:
    """The vocabulary in a directory's files."""
    path = directory / FAST
    if path.is_file():
        body = read_json(path)
        model = _model(body, path)
        added = added_tokens(body.get("added_tokens") or [], path)
        prefix = _prefix_space(body, path)
        merges = [_pair(merge, path) for merge in model["merges"]]
        encoder = model["vocab"]
        around_text = around(body.get("post_processor"), path)
    else:
        _refuse_others(directory)
        encoder = read_json(directory / SLOW[0])
        merges = _merges(directory / SLOW[1])
        beside = directory / ADDED
        listed = read_optional(beside).items()
        added = added_tokens([{"content": text, "id": token} for text, token in listed], beside)
        prefix = False
        around_text = NOTHING
    config = read_optional(directory / CONFIG)
    added = configured_tokens(config, directory / CONFIG) | added
    if not path.is_file() or _is_gpt2s_own(config):
        prefix = bool(config.get("add_prefix_space"))
    if odd := [text for text, number in encoder.items() if type(number) is not int]:
        raise BadTokenizer(f"{directory}: the id of {odd[0]!a:.40} is no whole number")
    named = special_token_texts(directory)
    control = listed_control_tokens(directory)
    for text in (*named.values(), *control):
        if text in added:
            added[text] = replace(added[text], special=True, normalized=False)
        elif text in encoder and (text in control or not path.is_file()):
            added[text] = SpecialToken(encoder[text], text)
    if not path.is_file():
        around_text = _configured_around(config, named, {**encoder, **_ids(added)})
    return Vocabulary(encoder, merges, added, prefix, around_text)


def _ids(added: Mapping[str, SpecialToken]) -> dict[str, int]:
    return {text: token.id for text, token in added.items()}


def _configured_around(
    config: Mapping[str, Any], named: Mapping[str, str], ids: Mapping[str, int]
) -> Around:
    """The ids that `add_bos_token` and `add_eos_token` of `tokenizer_config.json` ask for."""
    start, end = (named.get(f"{kind}_token", END_OF_TEXT) for kind in ("bos", "eos"))
    before = (ids[start],) if config.get("add_bos_token") and start in ids else ()
    return before, (ids[end],) if config.get("add_eos_token") and end in ids else ()


def _is_gpt2s_own(config: Mapping[str, Any]) -> bool:
    """Whether Transformers opens it as GPT2Tokenizer, which takes the space before a text from
    `tokenizer_config.json`, not from `tokenizer.json`."""
    kind = config.get("tokenizer_class") or "GPT2Tokenizer"
    return bool(config) and str(kind).startswith("GPT2Tokenizer")


def _refuse_others(directory: Path) -> None:
    lost = [name for name in SLOW if not (directory / name).is_file()]
    kinds = [kind for name, kind in OTHERS.items() if (directory / name).is_file()]
    if lost and kinds:
        raise BadTokenizer(
            f"{directory}: a {kinds[0]} tokenizer; only byte-level BPE, GPT-2's kind, can be "
            "exported"
        )
    if lost:
        raise BadTokenizer(
            f"{directory}: {', '.join(lost)} missing (and no {FAST}); "
            "name a directory with the tokenizer's files with --tokenizer DIR"
        )


def _model(body: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The BPE of a `tokenizer.json`. Raises `BadTokenizer` where GPT-2's differs from it."""
    model = body.get("model")
    if not isinstance(model, dict):
        raise BadTokenizer(f"{path}: has no model; fetch it again")
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise BadTokenizer(f"{path}: a {kind} tokenizer; only byte-level BPE can be exported")
    refused = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if odd := [name for name in refused if model.get(name)]:
        raise BadTokenizer(f"{path}: {odd[0]} {model[odd[0]]!r}, which GPT-2's BPE does not have")
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise BadTokenizer(f"{path}: has no vocab or no merges; fetch it again")
    if normalizer := body.get("normalizer"):
        name = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
        raise BadTokenizer(f"{path}: the normalizer {name} changes texts, which GPT-2's never does")
    return model


def _prefix_space(body: Mapping[str, Any], path: Path) -> bool:
    """Whether a `tokenizer.json` puts a space before every text."""
    before = body.get("pre_tokenizer")
    before = before if isinstance(before, dict) else {}
    kind = before.get("type", "none")
    if kind != "ByteLevel" or not before.get("use_regex", True):
        raise BadTokenizer(
            f"{path}: the pre-tokenizer is {kind}, not GPT-2's ByteLevel; "
            "such a tokenizer cannot be exported"
        )
    return bool(before.get("add_prefix_space"))


def _pair(merge: object, path: Path) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(type(p) is str for p in parts):
        raise BadTokenizer(f"{path}: {merge!a:.40} is no merge of two symbols; fetch it again")
    return parts[0], parts[1]


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTokenizer(f"{path}: cannot be read ({reason(error)}); fetch it again") from None
    return [_pair(line, path) for line in lines if line and not line.startswith("#version")]


# ---- special tokens


def _separate_added(vocabulary: Vocabulary, n_vocab: int) -> Vocabulary:
    """The vocabulary with tokens that no merge makes moved from the encoder to the added ones."""
    made = {left + right for left, right in vocabulary.merges}
    added = {text: token for text, token in vocabulary.added.items() if token.id < n_vocab}
    encoder = {}
    for text, number in vocabulary.encoder.items():
        if text in made or len(text) == 1:
            encoder[text] = number
        elif text in vocabulary.added:
            continue
        elif MARKED.fullmatch(text) and type(number) is int:
            # Not declared anywhere, so not found in a text; the model may still generate it.
            added[text] = SpecialToken(number, text, matched=text == END_OF_TEXT)
        else:
            encoder[text] = number  # made by no merge: `Tokenizer.read` raises for it
    return replace(vocabulary, encoder=encoder, added=added)


def _check_size(vocabulary: Vocabulary, n_vocab: int, directory: Path) -> None:
    """Raises `BadTokenizer` where symbols lack a row of the model, or many rows a symbol."""
    every = {*vocabulary.encoder.values(), *(token.id for token in vocabulary.added.values())}
    beyond = sum(token >= n_vocab for token in vocabulary.encoder.values())
    if beyond or n_vocab - len(every) > MOST_PADDING:
        raise BadTokenizer(
            f"{directory}: {len(every)} tokens, but the model's n_vocab is {n_vocab}; "
            "name the model's own tokenizer with --tokenizer DIR"
        )
