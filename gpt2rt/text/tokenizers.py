"""The interface of all tokenizers, and the reader that chooses the one for a bundle.

GPT-2's own byte-level BPE is in `gpt2rt.text.tokenizer`; other tokenizers are run by the
`tokenizers` library, in `gpt2rt.text.foreign_tokenizer`, which is imported only when needed.
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
        """The text that `token` completes, maybe empty; `last` also returns an incomplete rest."""

    def close(self) -> str:
        """The incomplete rest, if no token was pushed as the last."""

    def branch(self) -> Stream:
        """An independent copy of this stream."""


class TextTokenizer(Protocol):
    """Converts text to tokens and back; immutable, safe to share among threads.

    `ends` are the tokens that end a text, `before` and `after` the tokens that the tokenizer puts
    around every text, prompts included.
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
        """Tokens of `text`; `special`: whether control tokens in it are tokens or plain text."""

    def encode_spans(self, text: str, *, special: bool | None = None) -> Encoding:
        """As `encode`, with the span of characters of `text` for each token."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`. Raises `InvalidSetting` for one outside the vocabulary."""

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`. Raises as `decode`."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds within a text. Raises as `decode`."""

    def stream(self, after: Sequence[int] = ()) -> Stream:
        """A stream for the text that tokens add to the text of the tokens `after`."""


T = TypeVar("T")


def once_per_tokenizer(compute: Callable[[TextTokenizer], T]) -> Callable[[TextTokenizer], T]:
    """Cache a function of a tokenizer: one result for each tokenizer, as long as that exists.

    The cache has weak references to tokenizers, so a result must not refer to its tokenizer.
    """
    results: WeakKeyDictionary[TextTokenizer, T] = WeakKeyDictionary()

    @wraps(compute)
    def cached(tokenizer: TextTokenizer) -> T:
        if tokenizer not in results:
            results[tokenizer] = compute(tokenizer)
        return results[tokenizer]

    return cached


def read_tokenizer(directory: Path) -> TextTokenizer:
    """Read the tokenizer in `directory`: OpenAI's two files, or else a `tokenizer.json`.

    Raises `BadTokenizer` for invalid files, `MissingExtra` if a `tokenizer.json` needs the library
    and it is not installed.
    """
    if (directory / ENCODER).exists() or not (directory / TOKENIZER).exists():
        return Tokenizer.read(directory)
    from gpt2rt.text.foreign_tokenizer import ForeignTokenizer

    return ForeignTokenizer.read(directory)
