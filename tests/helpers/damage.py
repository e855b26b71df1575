"""Random damage to one file of a directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any


def damage(folder: Path, other: Path, random: Random) -> str:
    """Do something to one file of `folder`; returns what. `other` is a whole one of its kind."""
    kinds = [flip, flip, flip, cut, grow, blank, lose, swap, exchange, edit, edit]
    path = random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    kind = random.choice(kinds)
    kind(path, other, random)
    return f"{kind.__name__} {path.name}"


def _place(size: int, random: Random) -> int:
    """Anywhere, or near one of the ends, where headers are."""
    near = random.randrange(min(size, 300))
    return random.choice([random.randrange(size), near, size - 1 - near])


def flip(path: Path, other: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(random.choice([1, 1, 1, 2, 8]) if data else 0):
        data[_place(len(data), random)] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def cut(path: Path, other: Path, random: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: _place(len(data), random) if data else 0])


def grow(path: Path, other: Path, random: Random) -> None:
    path.write_bytes(path.read_bytes() + random.randbytes(random.choice([1, 4, 100, 5000])))


def blank(path: Path, other: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    at = _place(len(data), random) if data else 0
    length = random.choice([1, 16, 512, 4096])
    data[at : at + length] = bytes(len(data[at : at + length]))
    path.write_bytes(data)


def lose(path: Path, other: Path, random: Random) -> None:
    path.unlink()


def swap(path: Path, other: Path, random: Random) -> None:
    """The file of the same name from another checkpoint or bundle."""
    if (other / path.name).is_file():
        shutil.copyfile(other / path.name, path)


def exchange(path: Path, other: Path, random: Random) -> None:
    """Two files of the directory change places."""
    twin = random.choice(sorted(path.parent.iterdir()))
    first, second = path.read_bytes(), twin.read_bytes()
    path.write_bytes(second)
    twin.write_bytes(first)


def edit(path: Path, other: Path, random: Random) -> None:
    """Change something in parsed JSON; of other files flip a bit."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return flip(path, other, random)
    for _ in range(random.choice([1, 1, 2])):
        body = _edited(body, random)
    path.write_text(json.dumps(body))
    return None


def _edited(value: Any, random: Random) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value))
        match random.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                twin = random.choice(sorted(value))
                return {**value, key: value[twin], twin: value[key]}
            case 2:
                return {(k + "x" if k == key else k): v for k, v in value.items()}
        return {**value, key: _edited(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        return [*value[:at], _edited(value[at], random), *value[at + 1 :]]
    strange: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        2**31,
        10**30,
        0.5,
        "",
        "x",
        "gelu",
        [],
        {},
        [[]],
    ]
    if type(value) is int:
        strange += [value + 1, value - 1, value * 2, value // 2] * 3
    return random.choice(strange)
