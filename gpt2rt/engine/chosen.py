"""The provider that was measured to be the fastest for a bundle, remembered for `auto`.

`providers.json` in the home directory has a `Preference` for each bundle, by the digest of its
manifest. It counts only on the machine, and with the ONNX Runtime, that it was measured on.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2rt.bundles import files
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import home
from gpt2rt.bundles.writing import write_text
from gpt2rt.engine.plugins import SEPARATOR
from gpt2rt.engine.provider_table import TABLE
from gpt2rt.engine.providers import physical_cores
from gpt2rt.kernels.library import kernels

NOTES = "providers.json"
MOST_BUNDLES = 64  # the oldest are forgotten
LARGEST_NOTES = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Preference:
    """A bundle's fastest provider, and the milliseconds of a step on each that was verified."""

    provider: str
    step_ms: Mapping[str, float]
    machine: str


def machine() -> str:
    """What a measurement depends on: the processor's kind and cores, and ONNX Runtime's version."""
    import onnxruntime as ort

    kind = f"{platform.system()} {platform.machine()} {kernels().instructions or 'plain'}"
    return f"{kind}, {physical_cores()} cores, ONNX Runtime {ort.__version__}"


def chosen(bundle: Bundle) -> Preference | None:
    """The choice for a bundle; None if nothing was measured, or on another machine."""
    note = _read(home() / NOTES).get(bundle.manifest.digest)
    if not isinstance(note, dict) or set(note) != {"provider", "step_ms", "machine"}:
        return None
    found = Preference(**note)
    known = str(found.provider).partition(SEPARATOR)[0] in TABLE
    return found if known and found.machine == machine() else None


def remember(bundle: Bundle, choice: Preference) -> Path:
    """Remember a choice; returns the file. Raises `OSError`."""
    place = home() / NOTES
    notes = _read(place)
    notes.pop(bundle.manifest.digest, None)
    kept = dict([*notes.items(), (bundle.manifest.digest, asdict(choice))][-MOST_BUNDLES:])
    os.makedirs(place.parent, exist_ok=True)
    write_text(place, json.dumps(kept, indent=1) + "\n")
    return place


def _read(place: Path) -> dict[str, object]:
    """The notes, by digest; none if they cannot be read or are damaged."""
    try:
        notes = json.loads(files.read_small(place, LARGEST_NOTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}
