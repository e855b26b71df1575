"""What the shell, and the prompt of `gpt2rt interactive`, may complete."""

from __future__ import annotations

from gpt2rt import library
from gpt2rt.bundle import Bundle


def model_names(incomplete: str = "") -> list[str]:
    """The bundles on this machine whose names begin with `incomplete`, whatever the case."""
    names = [bundle.name for bundle in library.exported() if isinstance(bundle, Bundle)]
    return [name for name in names if name.lower().startswith(incomplete.lower())]
