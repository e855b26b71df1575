"""Constraints from the command line: a schema or a grammar is a text or the name of a file."""

from __future__ import annotations

import re
from pathlib import Path

from gpt2rt import Constraint
from gpt2rt.bundles.paths import local
from gpt2rt.errors import InvalidSetting, reason


def read_constraint(
    regex: str | None = None, json_schema: str | None = None, grammar: str | None = None
) -> Constraint | None:
    """A constraint from the values of its options; None if none is given.

    Raises `InvalidSetting`, also for unreadable files.
    """
    if regex is json_schema is grammar is None:
        return None
    return Constraint(
        regex,
        json_schema and _text_or_file("JSON schema", json_schema, r"\A\s*([{\[\"]|true|false)"),
        grammar and _text_or_file("grammar", grammar, r"^\s*start\b[^:\n]*:|^%llguidance"),
    )


def _text_or_file(kind: str, value: str, looks_like_text: str) -> str:
    """`value`, or the content of the file of that name."""
    path = Path(local(value))
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSetting(f"{path}: byte {error.start} is not UTF-8; convert the file") from None
    except (OSError, ValueError) as error:  # also for a text that is too long to be a file name
        if not re.search(looks_like_text, value, re.MULTILINE):
            raise InvalidSetting(f"{value:.80}: cannot be read ({reason(error)})") from None
    if not value.strip() or re.search(looks_like_text, value, re.MULTILINE):
        return value
    raise InvalidSetting(f"{value:.80}: no such file, and not the text of a {kind}")
