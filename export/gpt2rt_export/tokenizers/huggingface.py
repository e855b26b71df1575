"""A tokenizer in Hugging Face's files becomes the bundle's: `encoder.json`, `vocab.bpe` and, for
what is special about it, `special_tokens.json`.

Read are `tokenizer.json`, or else `vocab.json` and `merges.txt` with `added_tokens.json`; the names
of the special tokens come from `tokenizer_config.json`, `special_tokens_map.json`, `config.json`.
Here GPT-2's kind is carried over, byte-level BPE; any other is `foreign_tokenizer`'s part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2rt.bundles.catalog import ENCODER, MERGES, SPECIAL_TOKENS
from gpt2rt.errors import BadTokenizer
from gpt2rt.text.special_tokens import SpecialToken, SpecialTokens
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt.text.vocabulary_files import END_OF_TEXT, REMEDY
from gpt2rt_export.tokenizers.post_processor import NOTHING, Around, around
from gpt2rt_export.tokenizers.text_ends import ends_of
from gpt2rt_export.tokenizers.vocabulary import write_vocabulary

FAST = "tokenizer.json"
SLOW = ("vocab.json", "merges.txt")
# What other tokenizers are known by.
OTHERS = {
    "vocab.txt": "WordPiece (vocab.txt)",
    "spiece.model": "SentencePiece (spiece.model)",
    "sentencepiece.bpe.model": "SentencePiece (sentencepiece.bpe.model)",
    "tokenizer.model": "SentencePiece (tokenizer.model)",
}
FLAGS = ("special", "lstrip", "rstrip", "single_word")
MARKED = re.compile(r"<.*>|\[.*\]")  # how people write tokens that no merge makes
MOST_PADDING = 1024  # ids without a token; more means that another model's tokenizer was named


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE: symbol -> id, merges in order, added tokens, a space before every text."""

    encoder: dict[str, int]
    merges: list[tuple[str, str]]
    added: dict[str, SpecialToken]
    prefix_space: bool
    around: Around = NOTHING


@dataclass(frozen=True, slots=True)
class Carried:
    """What an export says of the tokenizer: tokens left out, and ends that are ordinary words."""

    left_out: tuple[str, ...] = ()
    ordinary_ends: tuple[str, ...] = ()
    beyond: int = 0  # symbols that the model has no row for
    makeshift: bool = False  # no token could begin a text: 0 does


def is_huggingface(directory: Path) -> bool:
    """Whether the directory holds a tokenizer of Hugging Face's, and none of OpenAI's files."""
    if all((directory / name).is_file() for name in (ENCODER, MERGES)):
        return False
    return any((directory / name).is_file() for name in (FAST, *SLOW, *OTHERS))


def write_tokenizer(directory: Path, n_vocab: int, work: Path, own: bool = False) -> Carried:
    """Write the bundle's tokenizer files for a model of `n_vocab` ids into `work`.

    `own`: it is the model's own tokenizer, whatever its size. Raises `BadTokenizer`, for another
    with symbols beyond the model's or over `MOST_PADDING` ids less, too.
    """
    vocabulary = _read(directory)
    if not own:
        _check_size(vocabulary, n_vocab, directory)
    left_out = [token.text for token in vocabulary.added.values() if token.id >= n_vocab]
    vocabulary = _sort_out(vocabulary, n_vocab)
    tokens = tuple(sorted(vocabulary.added.values(), key=lambda token: token.id))
    ids = {token.text: token.id for token in tokens}
    ends = ends_of(
        _settings(directory), _named(directory), vocabulary.encoder, ids, n_vocab, directory
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
    try:
        Tokenizer.read(work)
    except BadTokenizer as error:
        # The message names the files as they were written; the user knows them under other names.
        text = str(error).replace(REMEDY, "fetch the tokenizer's files again")
        for ours, theirs in ((ENCODER, SLOW[0]), (MERGES, SLOW[1]), (SPECIAL_TOKENS, FAST)):
            mine = directory / (theirs if (directory / theirs).is_file() else FAST)
            text = text.replace(str(work / ours), str(mine)).replace(ours, mine.name)
        raise BadTokenizer(text) from None
    words = {token: text for text, token in vocabulary.encoder.items()}
    ordinary = [f"{end} ({words[end]})" for end in ends.all if end in words.keys() - ids.values()]
    beyond = sum(token >= n_vocab for token in vocabulary.encoder.values())
    return Carried(tuple(left_out), tuple(ordinary), beyond, ends.makeshift)


# ---- reading


def _read(directory: Path) -> Vocabulary:
    path = directory / FAST
    if path.is_file():
        body = _json(path)
        model = _model(body, path)
        added = _added(body.get("added_tokens") or [], path)
        prefix = _prefix_space(body, path)
        merges = [_pair(merge, path) for merge in model["merges"]]
        encoder = model["vocab"]
        around_text = around(body.get("post_processor"), path)
    else:
        _refuse_others(directory)
        encoder = _json(directory / SLOW[0])
        merges = _merges(directory / SLOW[1])
        beside = directory / "added_tokens.json"
        listed = _optional(beside).items()
        added = _added([{"content": text, "id": token} for text, token in listed], beside)
        prefix = False
        around_text = NOTHING
    config = _optional(directory / "tokenizer_config.json")
    added = _decoder(config, directory / "tokenizer_config.json") | added
    if not path.is_file() or _is_gpt2s_own(config):
        prefix = bool(config.get("add_prefix_space"))
    if odd := [text for text, number in encoder.items() if type(number) is not int]:
        raise BadTokenizer(f"{directory}: the id of {odd[0]!a:.40} is no whole number")
    named = _named(directory)
    control = _listed(directory)
    for text in (*named.values(), *control):
        if text in added:
            added[text] = replace(added[text], special=True, normalized=False)
        elif text in encoder and (text in control or not path.is_file()):
            added[text] = SpecialToken(encoder[text], text)
    if not path.is_file():
        around_text = _asked_around(config, named, {**encoder, **_ids(added)})
    return Vocabulary(encoder, merges, added, prefix, around_text)


def _ids(added: Mapping[str, SpecialToken]) -> dict[str, int]:
    return {text: token.id for text, token in added.items()}


def _asked_around(
    config: Mapping[str, Any], named: Mapping[str, str], ids: Mapping[str, int]
) -> Around:
    """What `add_bos_token` and `add_eos_token` of a tokenizer without `tokenizer.json` ask for."""
    start, end = (named.get(f"{kind}_token", END_OF_TEXT) for kind in ("bos", "eos"))
    before = (ids[start],) if config.get("add_bos_token") and start in ids else ()
    return before, (ids[end],) if config.get("add_eos_token") and end in ids else ()


def _listed(directory: Path) -> list[str]:
    """Further control tokens, which tokenizers list together."""
    found = []
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        config = _optional(directory / name)
        for key in ("additional_special_tokens", "extra_special_tokens"):
            value = config.get(key) or ()
            tokens = value.values() if isinstance(value, dict) else value
            if isinstance(tokens, str):
                raise BadTokenizer(f"{directory / name}: {key} is no list of tokens")
            found += [t.get("content") if isinstance(t, dict) else t for t in tokens]
    return [text for text in found if isinstance(text, str)]


def _settings(directory: Path) -> dict[str, dict[str, Any]]:
    """What is said of the model's use beside the tokenizer."""
    names = ("config.json", "generation_config.json")
    return {name: _json(directory / name) for name in names if (directory / name).is_file()}


def _is_gpt2s_own(config: Mapping[str, Any]) -> bool:
    """Whether Transformers opens it as GPT-2's tokenizer, which does not ask `tokenizer.json` about
    the space before a text."""
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
    """The BPE of a `tokenizer.json`, refused where it does something that GPT-2's does not."""
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
        raise BadTokenizer(f"{path}: cannot be read ({error}); fetch it again") from None
    return [_pair(line, path) for line in lines if line and not line.startswith("#version")]


def _added(tokens: Iterable[Any], path: Path) -> dict[str, SpecialToken]:
    found = {}
    for token in tokens:
        try:
            flags = {name: bool(token.get(name)) for name in FLAGS}
            flags["normalized"] = bool(token.get("normalized", not flags["special"]))
            text, number = token["content"], token["id"]
        except (TypeError, KeyError, AttributeError):
            raise BadTokenizer(f"{path}: {token!r:.60} is no added token") from None
        if text == "":
            continue  # nothing matches it; the `tokenizers` library passes over it, too
        if type(text) is not str or type(number) is not int or number < 0:
            raise BadTokenizer(f"{path}: {token!r:.60} is no added token")
        found[text] = SpecialToken(number, text, **flags)
    return found


def _decoder(config: Mapping[str, Any], path: Path) -> dict[str, SpecialToken]:
    """The added tokens of `tokenizer_config.json`, which are listed by their ids."""
    try:
        items = (config.get("added_tokens_decoder") or {}).items()
        return _added([{**token, "id": int(number)} for number, token in items], path)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadTokenizer(f"{path}: added_tokens_decoder is no list of tokens ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadTokenizer(f"{path}: cannot be read as JSON ({error}); fetch it again") from None
    if not isinstance(body, dict):
        raise BadTokenizer(f"{path}: holds {type(body).__name__}, not an object; fetch it again")
    return body


def _optional(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}


# ---- what is special


def _sort_out(vocabulary: Vocabulary, n_vocab: int) -> Vocabulary:
    """Tokens that merges make stay in the encoder; the others are special ones."""
    made = {left + right for left, right in vocabulary.merges}
    added = {text: token for text, token in vocabulary.added.items() if token.id < n_vocab}
    encoder = {}
    for text, number in vocabulary.encoder.items():
        if text in made or len(text) == 1:
            encoder[text] = number
        elif text in vocabulary.added:
            continue
        elif MARKED.fullmatch(text) and type(number) is int:
            # Nobody declared it, so it is not found in a text; the model may still write it.
            added[text] = SpecialToken(number, text, matched=text == END_OF_TEXT)
        else:
            encoder[text] = number  # made by no merge: the check of what is written will say so
    return replace(vocabulary, encoder=encoder, added=added)


def _named(directory: Path) -> dict[str, str]:
    """`eos_token` and such -> its text."""
    found = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in _optional(directory / name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def _check_size(vocabulary: Vocabulary, n_vocab: int, directory: Path) -> None:
    """The model has a row for every symbol, and not many rows besides."""
    every = {*vocabulary.encoder.values(), *(token.id for token in vocabulary.added.values())}
    beyond = sum(token >= n_vocab for token in vocabulary.encoder.values())
    if beyond or n_vocab - len(every) > MOST_PADDING:
        raise BadTokenizer(
            f"{directory}: {len(every)} tokens, but the model's n_vocab is {n_vocab}; "
            "name the model's own tokenizer with --tokenizer DIR"
        )
