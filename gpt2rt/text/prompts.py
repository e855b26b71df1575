"""Converts prompts to tokens: checks them, adds the tokens around them, truncates long ones."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Literal

import numpy as np

from gpt2rt.errors import BadText, InvalidSetting, PromptTooLong
from gpt2rt.text.tokenizers import TextTokenizer

Prompt = str | Sequence[int] | None
Truncate = Literal["left", "right"] | None


def check_prompt(prompt: object) -> str | tuple[int, ...] | None:
    """The prompt, with token ids as a tuple. Raises `BadText` unless it is text, ids or None."""
    if prompt is None or isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Sequence | np.ndarray) and not isinstance(prompt, bytes | bytearray):
        try:
            return tuple(index(token) for token in prompt)
        except TypeError:
            pass
    raise BadText(f"a prompt is text, token ids or None, not {type(prompt).__name__}")


def prompt_tokens(
    prompt: Prompt,
    tokenizer: TextTokenizer,
    n_ctx: int,
    *,
    special: bool | None = None,
    truncate: Truncate = None,
    length: int | None = None,
    name: str = "the model",
) -> tuple[int, ...]:
    """The tokens that a model reads for a prompt; for None the token that begins a text.

    A text gets the tokens that the tokenizer puts before and after every prompt; token ids are
    read unchanged. `special` is that of `TextTokenizer.encode`. `truncate` is the side at which a
    prompt that is too long may be cut; a cut leaves room for `length` new tokens, but at most half
    the context (None: exactly half).

    `name` is the model's name for messages. Raises `BadText`, `PromptTooLong` for more than `n_ctx`
    tokens, `InvalidSetting` for an id that is not in the vocabulary.
    """
    checked = check_prompt(prompt)
    if checked is None:
        return tokenizer.before or (tokenizer.start_of_text,)
    before, after = (tokenizer.before, tokenizer.after) if isinstance(checked, str) else ((), ())
    if isinstance(checked, str):
        body = tuple(tokenizer.encode(checked, special=special))
    else:
        body = checked
        if odd := [token for token in body if not 0 <= token < tokenizer.n_vocab]:
            raise InvalidSetting(
                f"{odd[0]} is no token; ids are 0 to {tokenizer.n_vocab - 1}", "prompt"
            )
    if not body:
        raise BadText("the prompt is empty; leave it out to begin a text from nothing")
    count = len(before) + len(body) + len(after)
    if count <= n_ctx:
        return (*before, *body, *after)
    if truncate is None:
        raise PromptTooLong(
            f"the prompt has {count} tokens, the context of {name} holds {n_ctx}; "
            "shorten the prompt, or have it truncated (left or right)"
        )
    half = n_ctx // 2
    room = n_ctx + 1 - max(1, half if length is None else min(length, half))
    room = max(1, room - len(before) - len(after))
    return (*before, *(body[-room:] if truncate == "left" else body[:room]), *after)
