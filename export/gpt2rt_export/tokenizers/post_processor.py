"""Reads from a `tokenizer.json` which tokens are put before and after every text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2rt.errors import BadTokenizer

Around = tuple[tuple[int, ...], tuple[int, ...]]  # ids before a text, ids after it
NOTHING: Around = ((), ())
PAIRS = ("BertProcessing", "RobertaProcessing")


def around(processor: object, path: Path) -> Around:
    """The ids that the post-processor of `path` puts before and after a single text.

    Raises `BadTokenizer` for a post-processor that does anything else.
    """
    if processor is None:
        return NOTHING
    kind = processor.get("type") if isinstance(processor, dict) else processor
    try:
        if kind == "ByteLevel":  # offsets alone
            return NOTHING
        if kind in PAIRS:
            return (_id(processor["cls"][1]),), (_id(processor["sep"][1]),)  # type: ignore[index]
        if kind == "TemplateProcessing":
            return _template(processor)  # type: ignore[arg-type]
        if kind == "Sequence":
            return _sequence(processor["processors"], path)  # type: ignore[index]
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise BadTokenizer(
            f"{path}: the post-processor {kind} is damaged ({error!r:.60}); fetch the file again"
        ) from None
    raise BadTokenizer(
        f"{path}: the post-processor {kind!r:.40} is not known; "
        "save the tokenizer without it, or with a TemplateProcessing"
    )


def _sequence(processors: list[object], path: Path) -> Around:
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    for processor in processors:
        first, last = around(processor, path)
        before, after = (*first, *before), (*after, *last)
    return before, after


def _template(processor: Mapping[str, Any]) -> Around:
    """The ids of a template such as `<s> $A </s>`. Raises `ValueError` for two texts."""
    sides: list[list[int]] = [[]]
    for piece in processor["single"]:
        ((kind, body),) = piece.items()
        if kind == "Sequence" and body["id"] == "A" and len(sides) == 1:
            sides.append([])
        elif kind == "SpecialToken":
            sides[-1] += map(_id, processor["special_tokens"][body["id"]]["ids"])
        else:
            raise ValueError(f"{kind} {body}")
    before, after = sides
    return tuple(before), tuple(after)


def _id(number: object) -> int:
    if type(number) is not int:
        raise ValueError(f"{number!r} is no id")
    return number
