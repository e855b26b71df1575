"""Reads the files of a Hugging Face tokenizer that every kind has: names, settings, added tokens.

`huggingface` writes the bundle's files for GPT-2's kind, byte-level BPE, and `foreign` for any
other; both read by the functions here, which raise `BadTokenizer` for damaged files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2rt.bundles.catalog import ENCODER, MERGES
from gpt2rt.errors import BadTokenizer, reason
from gpt2rt.text.special_tokens import SpecialToken

FAST = "tokenizer.json"
SLOW = ("vocab.json", "merges.txt")
CONFIG = "tokenizer_config.json"
ADDED = "added_tokens.json"
# Files of other kinds of tokenizers -> what they are called in messages.
OTHERS = {
    "vocab.txt": "WordPiece (vocab.txt)",
    "spiece.model": "SentencePiece (spiece.model)",
    "sentencepiece.bpe.model": "SentencePiece (sentencepiece.bpe.model)",
    "tokenizer.model": "SentencePiece (tokenizer.model)",
}
FLAGS = ("special", "lstrip", "rstrip", "single_word")
MOST_PADDING = 1024  # ids without a token; more means that another model's tokenizer was named


@dataclass(frozen=True, slots=True)
class Carried:
    """What a user is told of how a tokenizer was carried into the bundle.

    `left_out`: texts of added tokens without a row in the model; `ordinary_ends`: tokens that end a
    text and are ordinary words; `beyond`: how many symbols have no row in the model; `makeshift`:
    token 0 begins a text, since no token named by the settings can.
    """

    left_out: tuple[str, ...] = ()
    ordinary_ends: tuple[str, ...] = ()
    beyond: int = 0
    makeshift: bool = False


def is_huggingface(directory: Path) -> bool:
    """Whether a directory has a Hugging Face tokenizer, and not OpenAI's two files."""
    if all((directory / name).is_file() for name in (ENCODER, MERGES)):
        return False
    return any((directory / name).is_file() for name in (FAST, *SLOW, *OTHERS))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `BadTokenizer`."""
    try:
        body = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadTokenizer(
            f"{path}: cannot be read as JSON ({reason(error)}); fetch it again"
        ) from None
    if not isinstance(body, dict):
        raise BadTokenizer(f"{path}: holds {type(body).__name__}, not an object; fetch it again")
    return body


def read_optional(path: Path) -> dict[str, Any]:
    """The object in a JSON file, an empty one where there is no file. Raises `BadTokenizer`."""
    return read_json(path) if path.is_file() else {}


def model_settings(directory: Path) -> dict[str, dict[str, Any]]:
    """`config.json` and `generation_config.json` of the model, those that are there, by name."""
    names = ("config.json", "generation_config.json")
    return {name: read_json(directory / name) for name in names if (directory / name).is_file()}


def special_token_texts(directory: Path) -> dict[str, str]:
    """The texts of special tokens by their roles: `eos_token` -> `<|endoftext|>`."""
    found = {}
    for name in ("special_tokens_map.json", CONFIG):
        for key, value in read_optional(directory / name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def listed_control_tokens(directory: Path) -> list[str]:
    """The texts of further control tokens, which are listed together without roles.

    Raises `BadTokenizer`.
    """
    found = []
    for name in ("special_tokens_map.json", CONFIG):
        config = read_optional(directory / name)
        for key in ("additional_special_tokens", "extra_special_tokens"):
            value = config.get(key) or ()
            tokens = value.values() if isinstance(value, dict) else value
            if isinstance(tokens, str):
                raise BadTokenizer(f"{directory / name}: {key} is no list of tokens")
            found += [t.get("content") if isinstance(t, dict) else t for t in tokens]
    return [text for text in found if isinstance(text, str)]


def added_tokens(tokens: Any, path: Path) -> dict[str, SpecialToken]:
    """Text -> token of a list of added tokens, as `tokenizer.json` has it.

    Raises `BadTokenizer`, which names the file `path`.
    """
    found = {}
    if not isinstance(tokens, list | tuple):
        raise BadTokenizer(f"{path}: added_tokens is {tokens!r:.60}, no list; fetch it again")
    for token in tokens:
        try:
            flags = {name: bool(token.get(name)) for name in FLAGS}
            flags["normalized"] = bool(token.get("normalized", not flags["special"]))
            text, number = token["content"], token["id"]
        except (TypeError, KeyError, AttributeError):
            raise BadTokenizer(f"{path}: {token!r:.60} is no added token") from None
        if type(text) is not str or type(number) is not int or number < 0:
            raise BadTokenizer(f"{path}: {token!r:.60} is no added token")
        if text == "":
            continue  # nothing matches it; the `tokenizers` library ignores it, too
        found[text] = SpecialToken(number, text, **flags)
    return found


def configured_tokens(config: Mapping[str, Any], path: Path) -> dict[str, SpecialToken]:
    """Text -> token of `added_tokens_decoder` in `tokenizer_config.json`, a table by ids.

    Raises as `added_tokens`.
    """
    try:
        items = (config.get("added_tokens_decoder") or {}).items()
        return added_tokens([{**token, "id": int(number)} for number, token in items], path)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadTokenizer(f"{path}: added_tokens_decoder is no list of tokens ({error})") from None
