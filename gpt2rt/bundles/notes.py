"""Notes in a JSON file of the home directory, which may be lost or damaged without harm."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles import files
from gpt2rt.bundles.catalog import home
from gpt2rt.bundles.writing import write_text

MOST = 64  # the oldest are forgotten
LARGEST = 1 << 20  # bytes of the file


@dataclass(frozen=True, slots=True)
class Notes:
    """Notes by keys, in the file `name` of the home directory."""

    name: str

    @property
    def place(self) -> Path:
        """The file."""
        return home() / self.name

    def find(self, key: str) -> object:
        """The note of a key, as JSON has it; None: there is none, or the file is damaged."""
        return self._all().get(key)

    def write(self, key: str, note: object) -> None:
        """Write a note; another process may write over it at once. Raises `OSError`."""
        kept = self._all()
        kept.pop(key, None)
        kept = dict([*kept.items(), (key, note)][-MOST:])
        os.makedirs(self.place.parent, exist_ok=True)
        write_text(self.place, json.dumps(kept, indent=1) + "\n")

    def _all(self) -> dict[str, object]:
        try:
            found = json.loads(files.read_small(self.place, LARGEST))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
