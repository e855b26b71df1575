"""GPT-2's byte-level BPE: text to tokens and back, by OpenAI's `encoder.json` and `vocab.bpe`.

Tokens are equal to those of `encoder.py` in github.com/openai/gpt-2. A symbol is a string of the
256 characters that stand for bytes; a merge makes one symbol of two neighbours; its rank is its
place in `vocab.bpe`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path

import regex

from gpt2rt.bundles.catalog import ENCODER, MERGES, SPECIAL_TOKENS
from gpt2rt.errors import BadText, InvalidSetting
from gpt2rt.text.added_tokens import TextPart, passes
from gpt2rt.text.byte_symbols import LATIN_1, SYMBOLS
from gpt2rt.text.merges import merge
from gpt2rt.text.special_tokens import SpecialToken, SpecialTokens, WithSpecialTokens, read_special
from gpt2rt.text.vocabulary_files import END_OF_TEXT, read_encoder, read_ranks

# Letters and digits are those of the installed `regex`, as in `encoder.py`. Newer releases of
# Unicode only change characters that were unassigned (from 9 to 18 also U+1CF2 and U+1CF3).
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
# No word has a space after another character, so the much faster `re` may split the text there
# first; most pieces are cached. Four control characters are spaces to `re` but not to `regex`.
PIECE = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|\s+")
SHORT = 32  # characters; longer pieces are not cached
REMEMBERED = 65_536  # pieces; some 15 MB
STARTS = bytes(byte >> 6 != 0b10 for byte in range(256))  # 1: a character of UTF-8 begins with it


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of a text, and for each the span of its characters: start, end (exclusive)."""

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class Tokenizer(WithSpecialTokens):
    """A vocabulary with its merges; immutable, safe to share among threads. Made by `read`."""

    def __init__(
        self,
        encoder: Mapping[str, int],
        ranks: Mapping[str, int],
        special: SpecialTokens | None = None,
    ) -> None:
        """`encoder` maps symbols to tokens, `ranks` maps `"left right"` to a rank; not checked.

        `special` None: only OpenAI's special token, `<|endoftext|>`.
        """
        if special is None:
            end = encoder[END_OF_TEXT]
            special = SpecialTokens(len(encoder), end, end, (SpecialToken(end, END_OF_TEXT),))
        self._encoder = encoder
        self._ranks = ranks
        self._special = special
        self._passes = passes(special.tokens)
        plain = {special.end_of_text, special.start_of_text, encoder.get(END_OF_TEXT)}
        own = (t for t in special.tokens if t.special and t.matched and t.id not in plain)
        self._has_control = any(own)
        self._beyond = any(token >= special.n_vocab for token in encoder.values())
        # Whether a text is a single part if its control tokens are plain text, as with OpenAI's.
        self._whole = not (special.prefix_space or self._beyond) and all(
            known.control for known in self._passes
        )
        self._symbols = _Symbols(special.n_vocab)
        self._symbols.update((token.id, _symbols_of(token.text)) for token in special.tokens)
        self._symbols.update(zip(encoder.values(), encoder, strict=True))
        self._tokens = _Memory(self._tokens_of)
        self._bytes: dict[int, bytes] = {}  # of tokens that were asked for

    @classmethod
    def read(cls, directory: Path) -> Tokenizer:
        """Read `encoder.json`, `vocab.bpe` and, if it exists, `special_tokens.json`.

        Raises `BadTokenizer`.
        """
        special = read_special(directory / SPECIAL_TOKENS)
        others = None if special is None else frozenset(token.id for token in special.tokens)
        encoder = read_encoder(directory / ENCODER, others)
        return cls(encoder, read_ranks(directory / MERGES, encoder), special)

    @property
    def has_control_tokens(self) -> bool:
        """Whether a fine-tune has control tokens of its own, such as `<|user|>`."""
        return self._has_control

    def encode(self, text: str, *, special: bool | None = None) -> list[int]:
        """Tokens of `text`; words that a fine-tune added are one token each.

        `special`: whether control tokens in it (`<|endoftext|>`, `<|user|>`) are one token each or
        plain text; None: one token if the vocabulary has control tokens of its own, as a chat
        model's has, and plain text otherwise, as in OpenAI's code. `before` and `after` are not
        added.

        Raises `BadText` for a lone surrogate, which UTF-8 cannot encode, for a byte without a token
        in a vocabulary other than OpenAI's, and for a token that the model does not have.
        """
        special = self._has_control if special is None else special
        if self._whole and not special:  # OpenAI's vocabulary: a text is one part
            check_text(text)
            return self._pieces_tokens(text)
        tokens: list[int] = []
        for part in self._parts(text, special):
            tokens += self._part_tokens(part)
        return tokens

    def encode_spans(self, text: str, *, special: bool | None = None) -> Encoding:
        """As `encode`, with the span of characters of `text` for each token.

        A character that is split over several tokens is in the span of each. A space that
        `prefix_space` puts before the text is in no span.
        """
        tokens: list[int] = []
        spans: list[tuple[int, int]] = []
        special = self._has_control if special is None else special
        for part in self._parts(text, special):
            found = self._part_tokens(part)
            tokens += found
            end = part.start + len(part.text)
            spans += [(part.start, end)] if part.token is not None else self._spans(part, found)
        return Encoding(tuple(tokens), tuple(spans))

    def _part_tokens(self, part: TextPart) -> list[int]:
        if part.token is not None:
            return [part.token]
        tokens = self._pieces_tokens(f" {part.text}" if self._prefixed(part) else part.text)
        if self._beyond and max(tokens, default=0) >= self.n_vocab:
            token = max(tokens)
            symbol = next(symbol for symbol, i in self._encoder.items() if i == token)
            text = symbol.translate(LATIN_1).encode("latin-1").decode("utf-8", "replace")
            raise BadText(
                f"the text has {text!r:.40}, token {token}, and the model knows {self.n_vocab} "
                "tokens only; leave it out"
            )
        return tokens

    def _pieces_tokens(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._tokens.__getitem__, PIECE.findall(text))))

    def _prefixed(self, part: TextPart) -> bool:
        return self._special.prefix_space and not part.text.startswith(" ")

    def _spans(self, part: TextPart, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The span of each of the `tokens` of a part without added tokens."""
        extra = int(self._prefixed(part))
        lengths = [len(self._symbols[token]) for token in tokens]
        if not extra and part.text.isascii():  # a character is a byte
            return list(pairwise(accumulate(lengths, initial=part.start)))
        starts = part.text.encode("utf-8").translate(STARTS)
        # For each byte its character.
        place = [
            *[part.start] * extra,
            *islice(accumulate(starts, initial=part.start - 1), 1, None),
        ]
        found = [(place[a], place[b - 1] + 1) for a, b in pairwise(accumulate(lengths, initial=0))]
        if extra and lengths[0] == 1:  # the token is the prefixed space alone
            found[0] = (part.start, part.start)
        return found

    def _parts(self, text: str, special: bool) -> list[TextPart]:
        """The text split at added tokens. Raises `BadText` for a lone surrogate."""
        check_text(text)
        parts = [TextPart(text, 0, None)] if text else []
        for known in self._passes:
            cut = (known.cut(part, special) if part.token is None else (part,) for part in parts)
            parts = list(chain.from_iterable(cut))
        return parts

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`, with U+FFFD for bytes that are not UTF-8.

        Raises `InvalidSetting` for a token that the vocabulary does not have.
        """
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`. Raises as `decode`."""
        tokens = list(tokens)
        try:
            symbols = "".join([self._symbols[token] for token in tokens])
        except KeyError as error:
            raise InvalidSetting(
                f"token {error.args[0]} is not in the vocabulary, which has 0 to {self.n_vocab - 1}"
            ) from None
        return symbols.translate(LATIN_1).encode("latin-1")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character. Raises as `decode`."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self.decode_bytes((token,))
        return found

    def stream(self, after: Sequence[int] = ()) -> TextStream:
        """A stream for the text of tokens; no token's text depends on those before it (`after`)."""
        return TextStream(self)

    def _tokens_of(self, piece: str) -> tuple[int, ...]:
        words = WORD.findall(piece)
        if words != [piece]:
            return tuple(chain.from_iterable(map(self._tokens.__getitem__, words)))
        symbols = [SYMBOLS[byte] for byte in piece.encode("utf-8")]
        try:
            return tuple([self._encoder[symbol] for symbol in merge(symbols, self._ranks)])
        except KeyError as error:
            raise BadText(
                f"the vocabulary has no token for byte {LATIN_1[ord(error.args[0])]:#04x} of "
                f"{piece!r:.40}; leave the character out"
            ) from None


def check_text(text: object) -> None:
    """Raises `BadText` unless `text` is a str that UTF-8 can encode (no lone surrogates)."""
    if not isinstance(text, str):
        raise BadText(f"a text is a str, not {type(text).__name__}; decode bytes as UTF-8 first")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadText(
            f"the text has half a surrogate pair, U+{ord(text[error.start]):04X}, at position "
            f"{error.start}; remove it, or decode the input as UTF-8"
        ) from None


def _symbols_of(text: str) -> str:
    return "".join(SYMBOLS[byte] for byte in text.encode("utf-8"))


class TextStream:
    """Turns tokens into text as they arrive, in whole characters.

    The strings it returns, joined, equal `Tokenizer.decode` of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int, last: bool = False) -> str:
        """The text that `token` completes, maybe empty; `last` also returns an incomplete rest."""
        return self._utf8.decode(self._tokenizer.token_bytes(token), last)

    def close(self) -> str:
        """The incomplete rest, if no token was pushed as the last: U+FFFD or nothing."""
        return self._utf8.decode(b"", True)

    def branch(self) -> TextStream:
        """An independent copy of this stream."""
        other = TextStream(self._tokenizer)
        other._utf8.setstate(self._utf8.getstate())
        return other


class _Symbols(dict[int, str]):
    """Token -> its symbol: empty for an id without symbol, `KeyError` for an invalid id."""

    def __init__(self, n_vocab: int) -> None:
        self._ids = range(n_vocab)

    def __missing__(self, token: int) -> str:
        if token in self._ids:
            return ""
        raise KeyError(token)


class _Memory(dict[str, tuple[int, ...]]):
    """A cache of the tokens of short pieces, emptied when it is full."""

    def __init__(self, compute: Callable[[str], tuple[int, ...]]) -> None:
        self._compute = compute

    def __missing__(self, piece: str) -> tuple[int, ...]:
        tokens = self._compute(piece)
        if len(piece) <= SHORT:
            if len(self) >= REMEMBERED:
                self.clear()
            self[piece] = tokens
        return tokens
