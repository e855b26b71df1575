"""What the shell, and the prompt of `gpt2rt interactive`, may complete."""

from __future__ import annotations

from gpt2rt import Bundle
from gpt2rt.bundles import library
from gpt2rt.engine.provider_table import TABLE
from gpt2rt.text.controls import CONTROLS


def model_names(incomplete: str = "") -> list[str]:
    """The bundles on this machine whose names begin with `incomplete`, whatever the case.

    One with a character that cannot be typed, and that a terminal might obey, is left out.
    """
    names = [bundle.name for bundle in library.exported() if isinstance(bundle, Bundle)]
    names = [name for name in names if not CONTROLS.search(name)]
    return [name for name in names if name.lower().startswith(incomplete.lower())]


def providers(incomplete: str = "") -> list[str]:
    """The providers whose names begin with `incomplete`."""
    return [name for name in ("auto", *TABLE) if name.startswith(incomplete)]
