"""Settings that a model's makers recommend, from its bundle's `defaults.json`.

The file maps names of `SamplingParams` and `Stopping` to values; other settings have gpt2rt's own
defaults. The exporter makes it from a fine-tune's `generation_config.json`. The settings apply only
on request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import DEFAULTS
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt.generation.stopping import Stopping
from gpt2rt.sampling.params import SamplingParams

DRAWING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram",
    "min_length",
)
NAMES = (*DRAWING, "length")


@dataclass(frozen=True, slots=True)
class Defaults:
    """The settings that a model's makers recommend.

    named: only these settings, by name.
    params, stopping: these settings and gpt2rt's defaults, as arguments for `GPT2.generate`.
    """

    named: Mapping[str, float] = field(default_factory=dict)
    params: SamplingParams = SamplingParams()
    stopping: Stopping = Stopping()

    @classmethod
    def of(cls, named: Mapping[str, float]) -> Defaults:
        """Defaults from settings by name.

        Raises `InvalidSetting` for names not in `NAMES`, invalid values, and a `length` below
        `min_length`.
        """
        if odd := sorted(set(named) - set(NAMES)):
            raise InvalidSetting(f"{odd[0]} is no default of a model; there are {', '.join(NAMES)}")
        params = SamplingParams(**{name: named[name] for name in DRAWING if name in named})  # type: ignore[arg-type]
        stopping = Stopping(named.get("length"))  # type: ignore[arg-type]
        if stopping.length is not None and params.min_length > stopping.length:
            raise InvalidSetting(
                f"min_length {params.min_length} is more than the length, {stopping.length}"
            )
        return cls(dict(named), params, stopping)

    @classmethod
    def read(cls, bundle: Bundle) -> Defaults:
        """The defaults of a bundle, or gpt2rt's if it has none. Raises `BadBundle`."""
        if DEFAULTS not in bundle.manifest.files:
            return cls()
        bundle.check([DEFAULTS])
        path = bundle.directory / DEFAULTS
        try:
            return cls.of(dict(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, RecursionError, InvalidSetting) as error:
            raise BadBundle(f"{path}: no settings ({error}); {bundle.remedy}") from None
