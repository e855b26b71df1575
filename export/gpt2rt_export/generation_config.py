"""Writes a fine-tune's `generation_config.json` as the bundle's `defaults.json`.

Every setting is carried over, or a note says why not. Names are Transformers'; the tokens that end
a text (`eos_token_id`) are read by `text_ends`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt2rt.bundles.manifest import DEFAULTS
from gpt2rt.errors import BadCheckpoint, InvalidSetting, reason
from gpt2rt.generation.defaults import Defaults

CONFIG = "generation_config.json"
CARRIED = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "min_new_tokens": "min_length",
    "max_new_tokens": "length",
}
# Settings that do not affect how tokens are drawn.
ASIDE = {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "do_sample",
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "return_dict_in_generate",
    "num_return_sequences",
}
FAMILIES = ("_", "output_", "assistant_", "num_assistant_", "compile_", "prefill_")
# Values that change nothing in Transformers, besides null, zero and false.
NEUTRAL = {
    "max_length": 20,
    "num_beams": 1,
    "num_beam_groups": 1,
    "length_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "max_matching_ngram_size": 2,
}
REASONS = {
    "max_length": "it counts the prompt, too; --length counts new tokens",
    "min_length": "it counts the prompt, too; --min-length counts new tokens",
    "num_beams": "--beams searches for the likeliest text",
    "bad_words_ids": "--bad-word bans texts",
}


def write_defaults(checkpoint: Path, bundle: Path) -> list[str]:
    """Write `defaults.json` into `bundle` where the checkpoint's directory has such settings.

    Returns a note for every setting that is not carried over. Raises `BadCheckpoint` for a file
    that is no JSON object.
    """
    path = checkpoint / CONFIG
    if not path.is_file():
        return []
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(
            f"{path}: cannot be read as JSON ({reason(error)}); fetch it again"
        ) from None
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{path}: holds no settings; fetch it again")
    named, notes = carried(config)
    if named:
        (bundle / DEFAULTS).write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
    return notes


def carried(config: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """The defaults, and a note for every setting that is not carried over.

    `do_sample: false` means greedy, whatever the other settings. Where `do_sample` is missing, the
    settings count, though Transformers would not sample.
    """
    named: dict[str, float] = {}
    notes = list(_notes_on_unknown(config))
    for theirs, ours in CARRIED.items():
        value = config.get(theirs)
        if value is None:
            continue
        try:
            Defaults.of({**named, ours: value})
            named[ours] = value
        except InvalidSetting as error:
            notes.append(f"{CONFIG}: {theirs} is not used: {error}")
    sampled = config.get("do_sample")
    if sampled is False:
        named["temperature"] = 0.0
    elif sampled not in (None, True):
        notes.append(f"{CONFIG}: do_sample {sampled!r:.40} is not used: it is true or false")
    return named, notes


def _notes_on_unknown(config: Mapping[str, Any]) -> Iterator[str]:
    """A note for every setting that has an effect and no counterpart in gpt2rt."""
    for name, value in config.items():
        aside = name in CARRIED or name in ASIDE or name.startswith(FAMILIES)
        neutral = not value or (name in NEUTRAL and value == NEUTRAL[name])
        if not aside and not neutral:
            reason = REASONS.get(name, "gpt2rt has no such default")
            yield f"{CONFIG}: {name:.60} is not carried: {reason}"
