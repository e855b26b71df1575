"""The texts of tokens, each decoded once."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2rt.text.tokenizers import TextTokenizer, once_per_tokenizer


def texts_of(tokenizer: TextTokenizer, tokens: Sequence[int]) -> list[str]:
    """The text of each token alone."""
    known = _known_texts(tokenizer)
    for token in set(tokens).difference(known):
        known[token] = tokenizer.decode([token])
    return [known[token] for token in tokens]


@once_per_tokenizer
def _known_texts(tokenizer: TextTokenizer) -> dict[int, str]:
    """The texts of tokens that were asked for."""
    return {}
