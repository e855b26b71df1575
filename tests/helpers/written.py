"""What commands write into files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

TEXTS = ["the cat sat", 'né 👋, "so"', "x y z", "over the hill"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
