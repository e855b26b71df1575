"""Constraints on a text: a regular expression, a JSON schema or a grammar that it has to match."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2rt.errors import InvalidSetting

KINDS = {"regex": "regular expression", "json_schema": "JSON schema", "grammar": "grammar"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A format that generated text has to match: exactly one of the three attributes.

    Raises `InvalidSetting` if not exactly one is given, or for invalid values.

    Attributes:
        regex: a regular expression in Rust's syntax that the whole text matches; as in Python `\\d`
            is a digit of any script.
        json_schema: a schema (draft 2020-12), as JSON text or parsed; it becomes compact JSON text.
            The properties of an object are generated in the schema's order.
        grammar: a grammar in the Lark syntax of llguidance, whose rule `start` matches the text.
    """

    regex: str | None = None
    json_schema: str | bool | Mapping[str, Any] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise InvalidSetting(f"a constraint is one of {', '.join(KINDS)}; given: {found}")
        name = given[0]
        value = getattr(self, name)
        if name == "json_schema":
            value = _canonical(value)
        elif not isinstance(value, str):
            raise InvalidSetting(f"the {KINDS[name]} must be text, not {type(value).__name__}")
        if not (value if name == "regex" else value.strip()):
            raise InvalidSetting(f"the {KINDS[name]} is empty; leave it out for free text")
        if _surrogate(value):
            raise InvalidSetting(f"the {KINDS[name]} is not Unicode text (half a surrogate pair)")
        object.__setattr__(self, name, value)

    @property
    def kind(self) -> str:
        """`regex`, `json_schema` or `grammar`."""
        return next(name for name in KINDS if getattr(self, name) is not None)


def _canonical(schema: object) -> str:
    """A schema as compact JSON text, with its keys in the same order."""
    try:
        if isinstance(schema, str):
            schema = json.loads(schema, parse_constant=_no_constant)
        text = json.dumps(
            dict(schema) if isinstance(schema, Mapping) else schema,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidSetting(f"the JSON schema is not JSON: {error}") from None
    _check_counts(schema)
    if schema is False:
        raise InvalidSetting("the JSON schema is `false`, which no text satisfies")
    if not isinstance(schema, Mapping | bool):
        raise InvalidSetting(
            f"a JSON schema is an object, true or false, not {type(schema).__name__}"
        )
    return "{}" if schema is True else text


def _check_counts(schema: object) -> None:
    """Raises `InvalidSetting` for a `minProperties` that llguidance would not enforce.

    It counts repeated names, too.
    """
    if isinstance(schema, Mapping):
        least, required = schema.get("minProperties"), schema.get("required")
        names = len(required) if isinstance(required, list) else 0
        if isinstance(least, int) and least > max(1, names):
            raise InvalidSetting(
                f"the JSON schema has minProperties {least} with {names} required names; "
                "a model may write a name twice, so name as many under `required`"
            )
        for key, value in schema.items():
            if key not in ("enum", "const", "default", "examples"):
                _check_counts(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            _check_counts(value)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
