"""Writes a fine-tune's chat template as the bundle's `chat_template.jinja`.

A template names the tokens of its tokenizer, such as `eos_token`; the written one begins by setting
those that it names, so that nothing else has to be known when it is rendered.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gpt2rt.bundles.manifest import CHAT_TEMPLATE, LARGEST_TEXT
from gpt2rt.errors import BadCheckpoint, BadTokenizer, reason
from gpt2rt.text.vocabulary_files import END_OF_TEXT
from gpt2rt_export.tokenizers.huggingface_files import CONFIG, read_optional, special_token_texts

DEFAULT = "default"  # of several templates the one that Transformers takes
# What Transformers' GPT-2 tokenizer has where a model's files name no tokens.
GPT2_TOKENS = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)


def write_chat_template(checkpoint: Path, bundle: Path) -> list[str]:
    """Write `chat_template.jinja` into `bundle` where the checkpoint's directory has a template.

    Its own file counts before the one in `tokenizer_config.json`. Returns notes of what is left
    out. Raises `BadCheckpoint` for files that cannot be read.
    """
    if not checkpoint.is_dir():
        return []
    try:
        config = read_optional(checkpoint / CONFIG)
        source, notes = _template(checkpoint, config)
        if source is None:
            return notes
        texts = special_token_texts(checkpoint)
    except (BadTokenizer, OSError, ValueError) as error:
        raise BadCheckpoint(
            f"{checkpoint}: no chat template ({reason(error)}); fetch it again"
        ) from None
    if str(config.get("tokenizer_class", "GPT2")).startswith("GPT2"):
        texts = GPT2_TOKENS | texts
    whole = "".join(_settings(source, texts)) + source
    if len(whole.encode()) > LARGEST_TEXT:
        return [*notes, f"the chat template is longer than {LARGEST_TEXT} bytes and not carried"]
    (bundle / CHAT_TEMPLATE).write_bytes(whole.encode())
    return notes


def _template(checkpoint: Path, config: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The template of a directory (None: there is none), and notes on those left out."""
    path = checkpoint / CHAT_TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8"), []
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        others = sorted(str(name) for name in named if name != DEFAULT)
        notes = [f"{CONFIG}: the chat template {name:.60} is not carried" for name in others]
        found = named.get(DEFAULT)
        return (found if isinstance(found, str) else None), notes
    if found is not None and not isinstance(found, str):
        return None, [f"{CONFIG}: chat_template is {found!r:.40}, no template, and not carried"]
    return found, []


def _settings(source: str, texts: dict[str, str]) -> list[str]:
    """A line of the template for each token that it names, to be trimmed when it is rendered."""
    named = set(re.findall(r"\w+", source))
    # JSON's escapes are Jinja's, too, for all that ensure_ascii leaves
    return [
        f"{{% set {name} = {json.dumps(text)} %}}\n"
        for name, text in sorted(texts.items())
        if name in named
    ]
