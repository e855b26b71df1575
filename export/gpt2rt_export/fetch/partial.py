"""The bytes of a file whose download is not finished."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2rt.bundles.writing import put_in_place


class Partial:
    """The bytes of a file fetched so far, in the hidden file `.NAME.partial` beside its place.

    `.NAME.partial.json` holds the URLs that they are from, `sources`, and the `validator` of the
    last one (ETag or date of change), by which its server tells whether the file is still the same.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = place.with_name(f".{place.name}.partial")
        self._about = place.with_name(f".{place.name}.partial.json")

    @property
    def held(self) -> int:
        """How many bytes there are."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def sources(self) -> list[str]:
        return [str(source) for source in self._read().get("sources", ())]

    @property
    def validator(self) -> str | None:
        found = self._read().get("validator")
        return found if isinstance(found, str) else None

    def restart(self) -> None:
        """Delete the bytes, and then their sources: those never describe other bytes."""
        self.path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def set_source(self, source: str, validator: str | None) -> None:
        """Record that the bytes written next are from the URL `source`."""
        sources = [s for s in self.sources if s != source]
        text = json.dumps({"sources": [*sources, source], "validator": validator})
        self._about.write_text(text, encoding="utf-8")

    def publish(self) -> None:
        """Put the finished file into its place, whole or not at all."""
        self._about.unlink(missing_ok=True)
        put_in_place(self.path, self.place)

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):  # a damaged one counts as none
            read = json.loads(self._about.read_text(encoding="utf-8"))
            if isinstance(read, dict):
                return read
        return {}
