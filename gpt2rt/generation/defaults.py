"""How a model's makers would draw from it: settings that its bundle carries, used where asked for.

`defaults.json` of a bundle maps names of `SamplingParams` and `Stopping` to values; what is not in
it has gpt2rt's own default. The exporter makes it of a fine-tune's `generation_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpt2rt.bundles.bundle import DEFAULTS, Bundle
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
    """Settings that a model's makers chose.

    named: those settings alone, by name. params, stopping: they and gpt2rt's defaults, to be given
    to `GPT2.generate`.
    """

    named: Mapping[str, float] = field(default_factory=dict)
    params: SamplingParams = SamplingParams()
    stopping: Stopping = Stopping()

    @classmethod
    def of(cls, named: Mapping[str, float]) -> Defaults:
        """Raises `InvalidSetting` for a name that is not in `NAMES`, or a value that means nothing.

        A `length` below `min_length` is one.
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
        """Those of a bundle; none where it carries none. Raises `BadBundle`."""
        if DEFAULTS not in bundle.manifest.files:
            return cls()
        bundle.check([DEFAULTS])
        path = bundle.directory / DEFAULTS
        try:
            return cls.of(dict(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, RecursionError, InvalidSetting) as error:
            raise BadBundle(f"{path}: no settings ({error}); {bundle.way_out}") from None
