"""Tokenizers other than GPT-2's, run by the `tokenizers` library (extra `tokenizers`).

They are WordPiece (BERT's, which most Chinese GPT-2s have), Unigram, or BPE with other rules. A
bundle's `tokenizer.json` has the tokenizer in that library's format; `special_tokens.json` says
which tokens begin and end a text, as for every other vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import regex

from gpt2rt.bundles.catalog import SPECIAL_TOKENS, TOKENIZER
from gpt2rt.errors import BadText, BadTokenizer, InvalidSetting, missing_extra
from gpt2rt.text.byte_symbols import LATIN_1, SYMBOLS
from gpt2rt.text.special_tokens import SpecialTokens, WithSpecialTokens, read_special
from gpt2rt.text.tokenizer import Encoding, check_text

REMEDY = "export the model again"
BYTE = regex.compile(
    r"<0x([0-9A-F]{2})>"
)  # the token of a byte, in vocabularies with byte fallback
UNSEEN = regex.compile(r"[\s\p{M}\p{C}]")  # a tokenizer may drop these characters


class ForeignTokenizer(WithSpecialTokens):
    """A tokenizer of the library; immutable, safe to share among threads. Made by `read`."""

    def __init__(self, source: str, special: SpecialTokens) -> None:
        """`source` is the text of a `tokenizer.json`. Raises `BadTokenizer`, `MissingExtra`."""
        body, self._library = load(source)
        # Whether control tokens are plain text is state of the library's object, so there are two.
        _, self._plain = load(source)
        self._plain.encode_special_tokens = True
        self._special = special
        model, kinds = body["model"], set(_types(body.get("decoder")))
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        whole = model.get("unk_token") or model.get("byte_fallback")
        self._drops = model.get("type") == "BPE" and not whole
        self._prefix = str(model.get("continuing_subword_prefix") or "")
        self._suffix = str(model.get("end_of_word_suffix") or "")
        self._added = {token.id for token in special.tokens}
        self._neighbour: int | None = None

    @classmethod
    def read(cls, directory: Path) -> ForeignTokenizer:
        """Read `tokenizer.json` and `special_tokens.json` of a directory.

        Raises `BadTokenizer`, `MissingExtra`.
        """
        path, beside = directory / TOKENIZER, directory / SPECIAL_TOKENS
        special = read_special(beside)
        if special is None:
            raise BadTokenizer(f"{beside}: no such file; {REMEDY}")
        try:
            return cls(path.read_text(encoding="utf-8"), special)
        except (OSError, UnicodeDecodeError, BadTokenizer) as error:
            raise BadTokenizer(f"{path}: {error}; {REMEDY}") from None

    @property
    def has_control_tokens(self) -> bool:
        """Whether the vocabulary has control tokens, such as `[SEP]`."""
        return any(token.special for token in self._special.tokens)

    def encode(self, text: str, *, special: bool | None = None) -> list[int]:
        """Tokens of `text`, without `before` and `after`.

        `special`: whether control tokens in it, such as `[SEP]`, are encoded as tokens (None: yes,
        as in Transformers) or as plain text. Raises `BadText` for a lone surrogate, for a character
        that the vocabulary cannot encode, and for a token that the model does not have.
        """
        return list(self._encoded(text, special).ids)

    def encode_spans(self, text: str, *, special: bool | None = None) -> Encoding:
        """As `encode`, with the span of characters of `text` for each token.

        White space that the vocabulary does not encode is in no span.
        """
        found = self._encoded(text, special)
        return Encoding(tuple(found.ids), tuple(found.offsets))

    def _encoded(self, text: str, special: bool | None) -> Any:
        check_text(text)
        library = self._plain if special is False else self._library
        found = library.encode(text, add_special_tokens=False)
        if beyond := [i for i, token in enumerate(found.ids) if token >= self.n_vocab]:
            token, (start, end) = found.ids[beyond[0]], found.offsets[beyond[0]]
            raise BadText(
                f"the text has {text[start:end]!r:.40}, token {token}, and the model knows "
                f"{self.n_vocab} tokens only; leave it out"
            )
        if self._drops:
            self._check_whole(text, found)
        return found

    def _check_whole(self, text: str, found: Any) -> None:
        """Raises `BadText` for a character that BPE without an unknown token would drop."""
        characters = list(text)
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            if token in self._added:
                characters[start:end] = " " * (end - start)
        for character in UNSEEN.sub("", "".join(dict.fromkeys(characters))):
            normalizer = self._library.normalizer
            shown = normalizer.normalize_str(character) if normalizer else character
            units = [SYMBOLS[byte] for byte in shown.encode()] if self._byte_level else shown
            if lost := [unit for unit in units if not self._has(unit)]:
                raise BadText(
                    f"the vocabulary has no token for {character!r} ({lost[0]!a}); "
                    "leave the character out"
                )

    def _has(self, unit: str) -> bool:
        """Whether the vocabulary has this character at the start, inside or end of a word."""
        forms = (unit, self._prefix + unit, unit + self._suffix)
        return any(self._library.token_to_id(form) is not None for form in forms)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`, including that of control tokens.

        Raises `InvalidSetting` for a token that the model does not have.
        """
        text: str = self._library.decode(self._checked(tokens), skip_special_tokens=False)
        return text

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`' text. Raises as `decode`."""
        if self._byte_level:
            return b"".join(map(self.token_bytes, tokens))
        return self.decode(tokens).encode()

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token adds within a text: ` the` for BERT's `the`, `ing` for `##ing`.

        Raises as `decode`.
        """
        symbol = self._library.id_to_token(*self._checked([token])) or ""
        if token not in self._added:
            if self._byte_level and all(ord(character) in LATIN_1 for character in symbol):
                return symbol.translate(LATIN_1).encode("latin-1")
            if self._byte_fallback and (byte := BYTE.fullmatch(symbol)):
                return bytes.fromhex(byte[1])
        elif self._byte_level:
            return symbol.encode()
        before = self._ordinary()
        start = self.decode(before)
        return self.decode([*before, token]).removeprefix(start).encode()

    def stream(self, after: Sequence[int] = ()) -> DecodedStream:
        """A stream for the text that tokens add to the text of the tokens `after`."""
        return DecodedStream(self, after)

    def is_open(self, token: int) -> bool:
        """Whether a token is a byte, whose text depends on the tokens after it."""
        symbol = self._library.id_to_token(token) or ""
        return self._byte_fallback and BYTE.fullmatch(symbol) is not None

    def _ordinary(self) -> list[int]:
        """A token of a visible character, as context for another token; [] if there is none."""
        if self._neighbour is None:
            known = (i for i in range(self.n_vocab) if i not in self._added and not self.is_open(i))
            self._neighbour = next((i for i in known if self.decode([i]).isalnum()), -1)
        return [self._neighbour] if self._neighbour >= 0 else []

    def _checked(self, tokens: Iterable[int]) -> list[int]:
        tokens = list(tokens)
        if strange := [token for token in tokens if not 0 <= token < self.n_vocab]:
            raise InvalidSetting(
                f"token {strange[0]} is not in the vocabulary, which has 0 to {self.n_vocab - 1}"
            )
        return tokens


class DecodedStream:
    """Turns tokens into text as they arrive, by decoding the latest ones again.

    A token's text may depend on the token before it, so the last tokens whose text was returned are
    decoded together with the new ones.
    """

    def __init__(self, tokenizer: ForeignTokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(after)
        self._settled = len(self._tokens)

    def push(self, token: int, last: bool = False) -> str:
        """The text that `token` completes, maybe empty; `last` also returns an incomplete rest."""
        self._tokens.append(token)
        return self.close() if last else self._settle(whole=not self._tokenizer.is_open(token))

    def close(self) -> str:
        """The incomplete rest, if no token was pushed as the last."""
        return self._settle(whole=True, last=True)

    def branch(self) -> DecodedStream:
        """An independent copy of this stream."""
        other = DecodedStream(self._tokenizer, self._tokens)
        other._settled = self._settled
        return other

    def _settle(self, whole: bool, last: bool = False) -> str:
        if not whole or self._settled == len(self._tokens):
            return ""
        known = self._tokenizer.decode(self._tokens[: self._settled])
        text = self._tokenizer.decode(self._tokens)
        if not last and (text.endswith("\ufffd") or not text.startswith(known)):
            return ""
        if len(text) > len(known):  # tokens without text give no context
            del self._tokens[: self._settled]
        self._settled = len(self._tokens)
        return text[len(known) :]


def load(source: str) -> tuple[dict[str, Any], Any]:
    """Parse a `tokenizer.json`: its JSON, and the library's tokenizer without post-processing.

    Raises `BadTokenizer` with the library's reason, `MissingExtra` without the library.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise missing_extra(
            "tokenizers",
            "this model's vocabulary is not GPT-2's byte-level BPE, so it needs the library "
            "tokenizers",
        ) from None
    try:
        body = json.loads(source)
        # A post-processor adds tokens around a text and trims offsets; padding changes it.
        bare = {**body, "post_processor": None, "truncation": None, "padding": None}
        return body, Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises plain Exception
        raise BadTokenizer(f"not a tokenizer that the library tokenizers reads ({error})") from None


def _types(part: Any) -> Iterator[str]:
    """The types of all steps of a normalizer, pre-tokenizer or decoder."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in ("decoders", "normalizers", "pretokenizers", "processors"):
            for step in part.get(inner) or ():
                yield from _types(step)
