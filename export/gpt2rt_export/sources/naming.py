"""How a published GPT-2 calls its tensors: prefixes that wrappers left, and tensors beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpt2rt.hparams import HParams
from gpt2rt_export.sources.checkpoint import family

# What training wrappers put before every name: DataParallel, torch.compile, PEFT, TRL.
WRAPPERS = ("module", "_orig_mod", "model", "base_model", "pretrained_model")
BODY = "transformer."
EMBEDDING = "wte.weight"
ADAPTER = re.compile(r"(^|[._])(lora|adapter|ia3|prefix_encoder|prompt_encoder)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What stands before the names: `head` before `lm_head.weight`, `body` before `wte.weight`."""

    head: str
    body: str


def prefixes(names: Iterable[str]) -> Prefixes:
    """The prefixes of a checkpoint's names, by where its token embedding is."""
    found = [
        n.removesuffix(EMBEDDING) for n in names if n == EMBEDDING or n.endswith(f".{EMBEDDING}")
    ]
    known = [prefix for prefix in found if _is_known(prefix)]
    body = min(known, key=len, default=BODY)
    return Prefixes(body.removesuffix(BODY), body)


def _is_known(prefix: str) -> bool:
    parts = prefix.removesuffix(BODY).split(".")[:-1]
    return all(part in WRAPPERS for part in parts)


def beside(names: Iterable[str], prefix: Prefixes) -> list[str]:
    """The tensors that are no part of the language model, such as a value head's.

    Those that would change what the model says, an adapter's or others within it, are not among
    them.
    """
    inner = re.compile(re.escape(prefix.body) + r"(h\.\d+|wte|wpe|ln_f)\.")
    return sorted(
        name
        for name in names
        if not inner.match(name)
        and not ADAPTER.search(name)
        and not family([name])
        and not (prefix.body.endswith(BODY) and name.startswith(prefix.body))
        and not name.startswith(f"{prefix.head}lm_head.")
    )


def absent_biases(
    hparams: HParams, found: Mapping[str, object], own_name: Mapping[str, str]
) -> frozenset[str]:
    """Variables that stand for zeros: every bias where there is none, or those of the norms."""
    biases = frozenset(v for v in hparams.variables() if v.endswith("/b"))
    norms = frozenset(v for v in biases if "/ln_" in v)
    groups = (biases, norms)
    return next((g for g in groups if not any(own_name[v] in found for v in g)), frozenset())
