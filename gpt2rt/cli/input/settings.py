"""Settings by name: frozen dataclasses shown, and changed, as a person types them.

What a value may be is for the dataclasses to check; here text only becomes a value of the type that
a field is declared with.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gpt2rt.errors import InvalidSetting

FLAGS = {"on": True, "true": True, "yes": True, "1": True}
FLAGS |= {"off": False, "false": False, "no": False, "0": False}
NONE = ("none", "off", "default")
EXPECTED = {bool: "on or off", int: "a whole number", float: "a number", str: "text"}


def items(groups: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Name and value of every field, in the order they are declared."""
    for group in groups:
        for field in fields(group):
            yield field.name, _shown(getattr(group, field.name))


def changed(groups: Sequence[Any], name: str, text: str) -> tuple[Any, ...]:
    """`groups` with one field changed, of the first that has it.

    Raises `InvalidSetting` for a name that there is not, for text that is no value of its type, and
    what the dataclass itself raises.
    """
    name = name.replace("-", "_")
    for place, group in enumerate(groups):
        if name in {field.name for field in fields(group)}:
            value = _parsed(name, get_type_hints(type(group))[name], text)
            return *groups[:place], replace(group, **{name: value}), *groups[place + 1 :]
    names = [name for name, _ in items(groups)]
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    raise InvalidSetting(f"unknown setting {name!r}: {hint}")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _parsed(name: str, kind: Any, text: str) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    none = NoneType in kinds and text.lower() in NONE
    kinds = tuple(k for k in kinds if k is not NoneType)
    for k in kinds:
        try:
            return _value(k, text)
        except (ValueError, KeyError):
            continue
    if none:  # after the others: to a flag `off` is a value
        return None
    wanted = " or ".join(_expected(k) for k in kinds)
    raise InvalidSetting(f"{name} takes {wanted}, not {text!r}")


def _value(kind: Any, text: str) -> Any:
    """Raises `ValueError` or `KeyError` for text that is no such value."""
    if kind is bool:
        return FLAGS[text.lower()]
    if kind in (int, float, str):
        return kind(text)
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}[text]
    return _frozen(json.loads(text))


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return EXPECTED.get(kind, "JSON")


def _frozen(value: Any) -> Any:
    """Parsed JSON with tuples for its lists, as settings hold them."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value
