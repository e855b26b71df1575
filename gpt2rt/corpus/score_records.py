"""Scores as records: what is known of a text, of its words, of its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from gpt2rt.corpus.jobs import Kind, Record
from gpt2rt.scoring.score import Score


class Unit(StrEnum):
    """What a record stands for."""

    TOKEN = "token"
    WORD = "word"
    TEXT = "text"


TOTALS: dict[str, Kind] = {
    "tokens": "int",
    "scored": "int",
    "words": "int",
    "bytes": "int",
    "logprob": "float",
    "bits": "float",
    "perplexity": "float",
    "word_perplexity": "float",
    "byte_perplexity": "float",
    "bits_per_byte": "float",
}
SPAN: dict[str, Kind] = {"text": "text", "start": "int", "end": "int"}
WORD: dict[str, Kind] = {**SPAN, "first": "int", "last": "int", "bits": "float"}
TOKEN: dict[str, Kind] = {
    "token": "int",
    **SPAN,
    "logprob": "float",
    "rank": "int",
    "bits": "float",
    "probability": "float",
}


def columns(unit: Unit, top: int) -> dict[str, Kind]:
    """The fields of the records of a unit, with `top` alternatives for each token."""
    if unit is not Unit.TOKEN:
        return TOTALS if unit is Unit.TEXT else WORD
    found = dict(TOKEN)
    for number in range(1, top + 1):
        found |= {f"alternative_{number}": "text", f"probability_{number}": "float"}
    return found


def records(result: Score, unit: Unit) -> Iterator[Record]:
    """The flat records of a text: one, or one for each word or token."""
    if unit is Unit.TEXT:
        yield result.totals
    elif unit is Unit.WORD:
        yield from (word.as_dict() for word in result.words)
    else:
        for token in result.tokens:
            record = token.as_dict()
            del record["alternatives"]
            for number, other in enumerate(token.alternatives, 1):
                record[f"alternative_{number}"] = other.text
                record[f"probability_{number}"] = other.probability
            yield record
