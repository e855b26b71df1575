"""What the rest asks of a tokenizer, and the choice of the one that a bundle has.

GPT-2's own byte-level BPE is `gpt2rt.text.tokenizer`; whatever else a fine-tune brings is read by
the `tokenizers` library, in `gpt2rt.text.foreign_tokenizer`, which is imported only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

from gpt2rt.bundles.catalog import ENCODER, TOKENIZER
from gpt2rt.text.special_tokens import SpecialToken
from gpt2rt.text.tokenizer import Encoding, Tokenizer


class Stream(Protocol):
    """Turns tokens into text as they arrive."""

    def push(self, token: int, last: bool = False) -> str:
        """The text that `token` completes, maybe none; `last` completes it whatever is missing."""

    def close(self) -> str:
        """What is left when no token was pushed as the last."""

    def branch(self) -> Stream:
        """A stream of the same text, to go on by itself from here."""


class TextTokenizer(Protocol):
    """Text to tokens and back; never changed, safe to share among threads.

    `ends`: every token that ends a text. `before` and `after`: tokens that the tokenizer puts
    around a text, a prompt included.
    """

    def __hash__(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def start_of_text(self) -> int: ...
    @property
    def end_of_text(self) -> int: ...
    @property
    def ends(self) -> tuple[int, ...]: ...
    @property
    def before(self) -> tuple[int, ...]: ...
    @property
    def after(self) -> tuple[int, ...]: ...
    @property
    def special_tokens(self) -> tuple[SpecialToken, ...]: ...

    def encode(self, text: str, *, special: bool | None = None) -> list[int]:
        """Tokens of `text`; `special`: whether control tokens in it are tokens, not plain text."""

    def encode_spans(self, text: str, *, special: bool | None = None) -> Encoding:
        """As `encode`, with the characters of `text` that each token takes part in."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`; raises `InvalidSetting` for one that the vocabulary does not have."""

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes that `tokens` stand for; raises as `decode` does."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds within a text; raises as `decode` does."""

    def stream(self, after: Sequence[int] = ()) -> Stream:
        """A stream whose strings, joined, are what its tokens add to the text of `after`."""


Found = TypeVar("Found")


def once(compute: Callable[[TextTokenizer], Found]) -> Callable[[TextTokenizer], Found]:
    """`compute`, whose result is kept as long as its tokenizer is: nothing here keeps that alive.

    So the result must not hold the tokenizer.
    """
    known: WeakKeyDictionary[TextTokenizer, Found] = WeakKeyDictionary()

    @wraps(compute)
    def found(tokenizer: TextTokenizer) -> Found:
        if tokenizer not in known:
            known[tokenizer] = compute(tokenizer)
        return known[tokenizer]

    return found


def read_tokenizer(directory: Path) -> TextTokenizer:
    """The tokenizer whose files lie in `directory`: OpenAI's two, or else a `tokenizer.json`.

    Raises `BadTokenizer` for files that are none, and `MissingExtra` where the second needs a
    library that is not installed.
    """
    if (directory / ENCODER).exists() or not (directory / TOKENIZER).exists():
        return Tokenizer.read(directory)
    from gpt2rt.text.foreign_tokenizer import ForeignTokenizer

    return ForeignTokenizer.read(directory)
