"""The models that commands open."""

from __future__ import annotations

import os
import sys

from gpt2rt import GPT2, Bundle
from gpt2rt.bundles import library
from gpt2rt.cli.input import fetch
from gpt2rt.cli.input.options import PREFIX_MEGABYTES
from gpt2rt.corpus.loading import Loading
from gpt2rt.errors import InvalidSetting


def load(model: str | None, loading: Loading) -> GPT2:
    """The model asked for; standard error says where nobody asked and the demo steps in, and what
    the provider leaves to the CPU.
    """
    gpt2 = loading.load(fetch.find(model))
    if model is None:
        tell_of(gpt2.bundle)
    for text in gpt2.runtime.placed:
        print(f"gpt2rt: {text}", file=sys.stderr)
    return gpt2


def loading(
    threads: int | None,
    provider: str = "auto",
    draft: str | None = None,
    prefix_megabytes: int = PREFIX_MEGABYTES,
) -> Loading:
    """How a model is loaded. Raises `InvalidSetting`."""
    if prefix_megabytes < 0:
        raise InvalidSetting(f"--prefix-cache must be 0 or more megabytes, not {prefix_megabytes}")
    if draft is not None:
        fetch.fetch(draft)
    return Loading(threads, provider, draft, prefix_megabytes << 20)


def tell_of(bundle: Bundle) -> None:
    """What to know of the default model, on standard error; called once it is sure to be used."""
    if bundle.manifest.origin.startswith("random"):
        print(f"gpt2rt: {bundle.name} has random weights: it babbles", file=sys.stderr)
    if library.is_embedded(bundle) and not os.environ.get("GPT2RT_MODEL"):
        print(
            "gpt2rt: using the embedded demo model, which tells small stories; "
            "`gpt2rt export 117M --int8` gets GPT-2 117M",
            file=sys.stderr,
        )
