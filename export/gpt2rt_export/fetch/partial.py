"""A file that has not come whole yet."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


class Partial:
    """The bytes of a file that have come so far, in a hidden file beside its place.

    Another one says where they came from: `sources`, and the last one's `validator` (ETag or date)
    by which the server tells whether the file is still the same.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = place.with_name(f".{place.name}.partial")
        self._about = place.with_name(f".{place.name}.partial.json")

    @property
    def held(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def sources(self) -> list[str]:
        return [str(source) for source in self._read().get("sources", ())]

    @property
    def validator(self) -> str | None:
        found = self._read().get("validator")
        return found if isinstance(found, str) else None

    def restart(self) -> None:
        """Forget the bytes. They go first: what is left never speaks for bytes of another file."""
        self.path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def belongs(self, source: str, validator: str | None) -> None:
        """The bytes that come next are from `source`."""
        sources = [s for s in self.sources if s != source]
        text = json.dumps({"sources": [*sources, source], "validator": validator})
        self._about.write_text(text, encoding="utf-8")

    def publish(self) -> None:
        """Put the file into its place, whole or not at all, and for good."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self._about.unlink(missing_ok=True)
        os.replace(self.path, self.place)

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):  # damaged: nobody knows, as if none
            read = json.loads(self._about.read_text(encoding="utf-8"))
            if isinstance(read, dict):
                return read
        return {}
