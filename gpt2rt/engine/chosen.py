"""The provider that was measured to be the fastest for a bundle, remembered for `auto`.

`providers.json` in the home directory has a `Preference` for each bundle, by the digest of its
manifest. It counts only on the machine, and with the ONNX Runtime, that it was measured on.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.notes import Notes
from gpt2rt.engine.plugins import SEPARATOR
from gpt2rt.engine.provider_table import TABLE
from gpt2rt.engine.providers import physical_cores
from gpt2rt.kernels.library import kernels

NOTES = Notes("providers.json")


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
    note = NOTES.find(bundle.manifest.digest)
    if not isinstance(note, dict) or set(note) != {"provider", "step_ms", "machine"}:
        return None
    found = Preference(**note)
    known = str(found.provider).partition(SEPARATOR)[0] in TABLE
    return found if known and found.machine == machine() else None


def remember(bundle: Bundle, choice: Preference) -> Path:
    """Remember a choice; returns the file. Raises `OSError`."""
    NOTES.write(bundle.manifest.digest, asdict(choice))
    return NOTES.place
