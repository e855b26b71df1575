"""How a model is loaded: settings that change no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.providers import AUTO, Threads
from gpt2rt.generation.speculation import LOOKUP
from gpt2rt.model import GPT2


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is loaded, as in `GPT2.load`; it changes no result.

    Raises `InvalidSetting` for a number of threads that cannot be.
    """

    threads: int | None = None
    provider: str = AUTO
    draft: str | None = None
    prefix_bytes: int = 0

    def __post_init__(self) -> None:
        Threads(self.threads)

    def load(self, bundle: Bundle) -> GPT2:
        """The model of a bundle. Raises as `GPT2`."""
        settings = Threads(self.threads)
        draft: Any = LOOKUP if self.draft == LOOKUP else None
        if self.draft not in (None, LOOKUP):
            draft = GPT2(library.find(self.draft), settings, self.provider, prefix_bytes=0)
        return GPT2(bundle, settings, self.provider, draft=draft, prefix_bytes=self.prefix_bytes)
