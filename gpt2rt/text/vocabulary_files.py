"""OpenAI's `encoder.json` and `vocab.bpe`, read and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpt2rt.bundles.catalog import ENCODER, MERGES
from gpt2rt.errors import BadTokenizer
from gpt2rt.text.byte_symbols import ALPHABET

END_OF_TEXT = "<|endoftext|>"
SPECIAL = re.compile(r"<\|.*\|>")  # special tokens, which no merge makes
MERGE_LINES = re.compile(r"(?:[^ \n]++ [^ \n]++(?:\n|$))*+")  # lines of two symbols
REMEDY = f"copy {ENCODER} and {MERGES} from the model as published"


def read_text(path: Path) -> str:
    """Read a tokenizer's file as text. Raises `BadTokenizer`."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadTokenizer(f"{path}: no such file; {REMEDY}") from None
    except UnicodeDecodeError as error:
        raise BadTokenizer(f"{path}: byte {error.start} is not UTF-8; {REMEDY}") from None
    except OSError as error:
        raise BadTokenizer(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None


def read_encoder(path: Path, others: frozenset[int] | None) -> dict[str, int]:
    """Read `encoder.json`: symbol -> id.

    `others` are the ids of a fine-tune's added tokens; None: OpenAI's vocabulary. Raises
    `BadTokenizer`.
    """
    try:
        encoder: dict[str, int] = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadTokenizer(f"{path}: not JSON ({error}); {REMEDY}") from None
    if wrong := _wrong_in(encoder, others):
        raise BadTokenizer(f"{path}: {wrong}; {REMEDY}")
    return encoder


def _wrong_in(encoder: object, others: frozenset[int] | None) -> str | None:
    """What is invalid in a parsed `encoder.json`, for a message; None: nothing."""
    if not isinstance(encoder, dict):
        return f"holds {type(encoder).__name__}, not an object of symbols and their ids"
    if not set(map(type, encoder.values())) <= {int}:
        symbol, value = next((s, i) for s, i in encoder.items() if type(i) is not int)
        return f"the id of {symbol!a:.40} is {value!r:.40}, not a whole number"
    ids = sorted([*encoder.values(), *(others.difference(encoder.values()) if others else ())])
    if others is not None and (ids[:1] < [0] or len(set(ids)) < len(ids)):
        return "an id is negative or there twice"
    if others is None and ids != list(range(len(ids))):
        strange = next(min(pair) for pair in enumerate(ids) if pair[0] != pair[1])
        return f"the ids are not 0 to {len(ids) - 1}, each once (look for {strange})"
    # A vocabulary may lack symbols of some bytes: texts with such bytes are refused.
    if others is None and END_OF_TEXT not in encoder:
        return f"symbol {END_OF_TEXT!a} is missing"
    if "" in encoder or not ALPHABET.fullmatch("".join(encoder)):
        symbol = next(symbol for symbol in encoder if not ALPHABET.fullmatch(symbol))
        return f"symbol {symbol!a:.40} is not made of the 256 characters that stand for bytes"
    return None


def read_ranks(path: Path, encoder: Mapping[str, int]) -> dict[str, int]:
    """Read `vocab.bpe`: merge (`"left right"`) -> rank. Raises `BadTokenizer`."""
    version, *merges = read_text(path).removesuffix("\n").split("\n")
    if not version.startswith("#version"):
        raise BadTokenizer(f"{path}: line 1 is {version!a:.40}, not a `#version`; {REMEDY}")
    text = "\n".join(merges)  # checks of the whole text are several times as fast
    made = set(text.replace(" ", "").split("\n")) if merges else set()
    symbols = text.replace("\n", " ").split(" ") if merges else []
    known = all(map(encoder.__contains__, symbols))
    odd = made.symmetric_difference(encoder)  # what no merge makes, or `encoder` does not have
    if not (known and MERGE_LINES.fullmatch(text) and odd <= encoder.keys()):
        raise BadTokenizer(f"{path}: {_wrong_in_merges(merges, encoder)}; {REMEDY}")
    orphans = [s for s in odd if len(s) > 1 and not SPECIAL.fullmatch(s)]
    if orphans:
        first = min(orphans, key=encoder.__getitem__)
        raise BadTokenizer(
            f"{path}: {len(orphans)} symbols of {ENCODER}, such as {first!a:.40}, "
            f"are made by no merge; the file is cut short or damaged; {REMEDY}"
        )
    return dict(zip(merges, range(len(merges)), strict=True))


def _wrong_in_merges(merges: Sequence[str], encoder: Mapping[str, int]) -> str:
    for number, merge in enumerate(merges, 2):
        left, _, right = merge.partition(" ")
        if left not in encoder or right not in encoder or left + right not in encoder:
            if merge.count(" ") != 1:
                wrong = f"{merge!a:.40} is not two symbols with a space between them"
            else:
                strange = next(s for s in (left, right, left + right) if s not in encoder)
                wrong = f"{strange!a:.40} is not in {ENCODER}"
            return f"line {number}: {wrong}"
    raise AssertionError("a merge that is wrong as a text is wrong by itself")
