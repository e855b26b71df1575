"""Finds and reads the files of a data set; errors name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt2rt.errors import BadData, BadText
from gpt2rt.text.textfile import unmarked


def find(place: Path, names: Sequence[str]) -> Path:
    """The data file: `place` itself, or the first match of `names` in that folder, two levels deep.

    `names` are patterns, best first; one such as `*.story` means all such files of a folder, of
    which the first is returned. Raises `BadData` where no file or several match.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise BadData(f"{place}: no such file or folder")
    for name in names:
        for pattern in (name, f"*/{name}", f"*/*/{name}"):
            found = sorted(path for path in place.glob(pattern) if path.is_file())
            whole_folder = name.startswith("*.") and len({path.parent for path in found}) == 1
            if len(found) > 1 and not whole_folder:
                several = ", ".join(str(path) for path in found[:3])
                raise BadData(f"{place}: several files fit ({several}); name the one to read")
            if found:
                return found[0]
    raise BadData(f"{place}: no {' or '.join(names)} there")


def text_of(path: Path) -> str:
    """The text of a file. Raises `BadData`, which names the first byte that is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = unmarked(data, str(path)).decode("utf-8")
    except BadText as error:
        raise BadData(str(error)) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadData(f"{path}: line {line}: byte {error.start} is not UTF-8") from None
    if not text.strip():
        raise BadData(f"{path}: the file is empty")
    return text


def lines_of(path: Path) -> list[str]:
    """The lines of a text file without line ends. Raises `BadData`."""
    lines = text_of(path).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def json_of(path: Path) -> Any:
    """The JSON value in a file. Raises `BadData`."""
    return _parse(text_of(path), f"{path}", 0)


def json_lines(path: Path, **fields: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON-lines file, and `file: line n`; checks that it has `fields`."""
    for number, line in enumerate(lines_of(path), 1):
        where = f"{path}: line {number}"
        yield where, checked(_parse(line, where, number), where, **fields)


def checked(value: Any, where: str, **fields: type) -> dict[str, Any]:
    """`value`, if it is an object with these fields. Raises `BadData`."""
    if not isinstance(value, dict):
        raise BadData(f"{where}: {_kind(value)}, not an object with {', '.join(fields)}")
    for name, kind in fields.items():
        if name not in value:
            has = ", ".join(list(value)[:5]) or "nothing"
            raise BadData(f"{where}: no field {name!r} (it has {has})")
        if not isinstance(value[name], kind):
            raise BadData(f"{where}: {name!r} is {_kind(value[name])}, not {NAMES[kind]}")
    return value


NAMES = {str: "a string", list: "a list", dict: "an object", int: "a number"}


def _kind(value: Any) -> str:
    return NAMES.get(type(value), f"{value!r:.20}")


def _parse(text: str, where: str, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if number else f"{where}: line {error.lineno}"
        raise BadData(f"{place}: not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise BadData(f"{where}: not JSON (nested too deep)") from None
