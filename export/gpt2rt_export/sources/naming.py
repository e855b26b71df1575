"""Reads the names of a published GPT-2's tensors: wrappers' words, tensors of other parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.sources.checkpoint import family

# Words that training wrappers put anywhere into names: DataParallel, torch.compile, FSDP.
WITHIN = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Words that wrappers, PEFT and TRL too, put before every name.
BEFORE = (*WITHIN, "model", "base_model", "pretrained_model")
BODY = "transformer."
EMBEDDING = "wte.weight"
ADAPTER = re.compile(r"(^|[._])(lora|adapter|ia3|prefix_encoder|prompt_encoder)", re.IGNORECASE)


def plain(name: str) -> str:
    """`name` without the words of wrappers: `module.h._orig_mod.0.ln_1.bias` -> `h.0.ln_1.bias`."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in BEFORE:
        del parts[0]
    return ".".join(part for part in parts if part not in WITHIN) or name


def plain_names(names: Iterable[str], origin: str) -> dict[str, str]:
    """Plain name -> name in the file. Raises `BadCheckpoint` where two have one plain name."""
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(plain(name), name)) != name:
            raise BadCheckpoint(
                f"{origin}: holds {other} and {name}, the same tensor of two models; "
                "save the one to be exported alone"
            )
    return found


def wrapper_words(names: Mapping[str, str]) -> list[str]:
    """The words that `plain_names` left out, each once, in order."""
    left = (own.split(".") for plain, own in names.items() if plain != own)
    words = (part for parts in left for part in parts if part in BEFORE)
    return list(dict.fromkeys(words))


def body_prefix(names: Iterable[str]) -> str:
    """The prefix of `wte.weight`: `transformer.`, or "" where only the body was saved."""
    return "" if EMBEDDING in set(names) else BODY


def other_parts(names: Iterable[str], body: str) -> list[str]:
    """The names of tensors that are no part of the language model, such as a value head's.

    Not those of tensors that would change its logits: an adapter's, or others within it.
    """
    inner = re.compile(re.escape(body) + r"(h\.\d+|wte|wpe|ln_f)\.")
    return sorted(
        name
        for name in names
        if not inner.match(name)
        and not ADAPTER.search(name)
        and not family([name])
        and not (body and name.startswith(body))
        and not name.startswith("lm_head.")
    )


def absent_biases(
    hparams: HParams, found: Mapping[str, object], own_name: Mapping[str, str]
) -> frozenset[str]:
    """Variables that are read as zeros: all biases where no bias is there, or the norms' ones."""
    biases = frozenset(v for v in hparams.variables() if v.endswith("/b"))
    norms = frozenset(v for v in biases if "/ln_" in v)
    groups = (biases, norms)
    return next((g for g in groups if not any(own_name[v] in found for v in g)), frozenset())
