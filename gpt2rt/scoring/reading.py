"""Settings for scoring a text: windows, context, the token before it, word boundaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

from gpt2rt.checks import check_kind, check_whole
from gpt2rt.errors import InvalidSetting, PromptTooLong
from gpt2rt.scoring.score import Boundary
from gpt2rt.scoring.scoring import windows
from gpt2rt.text.tokenizers import TextTokenizer

Bos = int | str | None
AUTO_BOS = "auto"


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read for scoring.

    The model reads `window` tokens at a time and advances by `stride`, so tokens beyond the first
    window are predicted from at least `window - stride + 1` tokens. Without a stride a text has to
    fit the window. `boundary` is the end of a word to which its white space belongs; `bos` are the
    tokens before context and text.
    """

    window: int
    stride: int | None
    context: str | None
    special: bool | None
    boundary: Boundary
    bos: tuple[int, ...]

    @classmethod
    def within(
        cls,
        n_ctx: int,
        window: int | None,
        stride: int | None,
        context: str | None,
        special: bool | None,
        boundary: Boundary,
        bos: tuple[int, ...],
    ) -> Reading:
        """Check the settings for a model of `n_ctx`; `window` None is n_ctx.

        Raises `InvalidSetting`.
        """
        if boundary not in ("leading", "trailing"):
            raise InvalidSetting(f"boundary is leading or trailing, not {boundary!r}")
        window = n_ctx if window is None else window
        check_kind("context", context, str, optional=True)
        check_kind("special", special, bool, optional=True)
        check_whole("window", window)
        if stride is not None:
            check_whole("stride", stride)
        if not 1 <= window <= n_ctx:
            raise InvalidSetting(
                f"the window must be 1 to the context's {n_ctx}, not {window}", "window"
            )
        windows(0, window, window if stride is None else stride)
        return cls(window, stride, context, special, boundary, bos)

    def cuts(self, text: str, count: int) -> Iterator[tuple[int, int, int]]:
        """The `windows` over `count` tokens, those of `text` and those before it.

        Raises `PromptTooLong`.
        """
        if self.stride is None and count > self.window + 1:
            raise PromptTooLong(
                f"{text[:30]!r}... is longer than the window: {count - 1} tokens with the context, "
                f"and it holds {self.window}; give a stride, such as {max(1, self.window // 2)}"
            )
        return windows(count, self.window, self.stride or self.window)


def beginning(tokenizer: TextTokenizer, bos: Bos) -> tuple[int, ...]:
    """The tokens before a text by `bos`: a token's id or text, None (no token), or `AUTO_BOS`.

    `AUTO_BOS` is the tokens that the tokenizer puts before texts, or else its start of text. Raises
    `InvalidSetting` if `bos` is not a token.
    """
    if bos is None:
        return ()
    if bos == AUTO_BOS:
        return tokenizer.before or (tokenizer.start_of_text,)
    if isinstance(bos, str):
        found = [token.id for token in tokenizer.special_tokens if token.text == bos]
        found = found or tokenizer.encode(bos, special=True)
        if len(found) != 1 or not 0 <= found[0] < tokenizer.n_vocab:
            raise InvalidSetting(
                f"bos {bos!r} is no token of the vocabulary; give a token's text or its id", "bos"
            )
        return (found[0],)
    if not isinstance(bos, Integral) or not 0 <= bos < tokenizer.n_vocab:
        raise InvalidSetting(
            f"bos {bos!r} is not in the vocabulary, which has 0 to {tokenizer.n_vocab - 1}", "bos"
        )
    return (int(bos),)
