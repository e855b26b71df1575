"""Finds the tokens that begin and end a text in a fine-tune's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2rt.errors import BadTokenizer
from gpt2rt.text.vocabulary_files import END_OF_TEXT


@dataclass(frozen=True, slots=True)
class Ends:
    """The start token, the token between texts, and all tokens that end a text.

    `makeshift`: `start` and `end` are token 0, since the model has no row for the named ones.
    """

    start: int
    end: int
    all: tuple[int, ...]
    makeshift: bool = False


def ends_of(
    settings: Mapping[str, Mapping[str, Any]],
    named: Mapping[str, str],
    encoder: Mapping[str, int],
    added: Mapping[str, int],
    n_vocab: int,
    directory: Path,
) -> Ends:
    """The tokens at which Transformers' `generate` would stop, and those that begin texts.

    `settings`: `config.json` and `generation_config.json`, those that are there; the latter
    decides, as in Transformers. `named`: `eos_token` and the like -> its text. `encoder`, `added`:
    text -> id. Ids without a row in the model are ignored. Raises `BadTokenizer` where no token
    ends a text.
    """
    config = settings.get("config.json", {})
    every = {**encoder, **added}

    def find(kind: str) -> int | None:
        ids = [i for i in _ids(config.get(f"{kind}_token_id"), directory) if 0 <= i < n_vocab]
        special = [i for i in ids if i in added.values()]
        text = named.get(f"{kind}_token", "")
        by_name = [every[text]] if every.get(text, n_vocab) < n_vocab else []
        usual = [every[END_OF_TEXT]] if every.get(END_OF_TEXT, n_vocab) < n_vocab else []
        return next(iter([*special, *by_name, *ids, *usual]), None)

    stops = _stops(settings, directory)
    known = None if stops is None else tuple(dict.fromkeys(i for i in stops if 0 <= i < n_vocab))
    end, start = find("eos"), find("bos")
    if end is None:
        end = known[0] if known else start
    if end is None and stops:
        # The named tokens have no row: no token ends a text, and token 0 begins one.
        return Ends(0, 0, (), makeshift=True)
    if end is None:
        raise BadTokenizer(
            f"{directory}: no token ends a text; name one in config.json, as eos_token_id"
        )
    return Ends(end if start is None else start, end, (end,) if known is None else known)


def _stops(settings: Mapping[str, Mapping[str, Any]], directory: Path) -> list[int] | None:
    """The ids at which Transformers' `generate` stops; None where no settings name any."""
    if (generation := settings.get("generation_config.json")) is not None:
        return _ids(generation.get("eos_token_id"), directory)
    if (config := settings.get("config.json")) is not None and "eos_token_id" in config:
        return _ids(config["eos_token_id"], directory)
    return None


def _ids(value: Any, directory: Path) -> list[int]:
    """The ids of a setting that is an id, a list of ids or null."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if odd := [token for token in ids if type(token) is not int]:
        raise BadTokenizer(f"{directory}: eos_token_id or bos_token_id {odd[0]!r:.40} is no id")
    return list(ids)
