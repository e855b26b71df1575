"""Tokenizers that are not GPT-2's, read by the `tokenizers` library (extra `tokenizers`).

WordPiece (BERT's `vocab.txt`, which most Chinese GPT-2s have), Unigram, BPE with other rules: what
a bundle's `tokenizer.json` says, in that library's format. `special_tokens.json` beside it tells
which tokens begin and end a text and which stand before it, as for every other vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import regex

from gpt2rt.bundles.catalog import SPECIAL_TOKENS, TOKENIZER
from gpt2rt.errors import BadText, BadTokenizer, InvalidSetting, MissingExtra
from gpt2rt.text.byte_symbols import LATIN_1, SYMBOLS
from gpt2rt.text.special_tokens import SpecialTokens, WithSpecialTokens, read_special
from gpt2rt.text.tokenizer import Encoding, check_text

REMEDY = "export the model again"
BYTE = regex.compile(r"<0x([0-9A-F]{2})>")  # a byte, to tokenizers that fall back on bytes
UNSEEN = regex.compile(r"[\s\p{M}\p{C}]")  # what a tokenizer may drop without loss


class ForeignTokenizer(WithSpecialTokens):
    """A `tokenizer.json`, read: made by `read`, never changed, safe to share among threads."""

    def __init__(self, source: str, special: SpecialTokens) -> None:
        """Takes the text of a `tokenizer.json`; raises `BadTokenizer` for one that is none."""
        body, self._library = load(source)
        # As the library has it, what to make of control tokens is a state; so there is one of each.
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
        """Read `tokenizer.json` and `special_tokens.json`. `BadTokenizer` says what is wrong."""
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
        """Whether a text may have control tokens, such as `[SEP]`."""
        return any(token.special for token in self._special.tokens)

    def encode(self, text: str, *, special: bool | None = None) -> list[int]:
        """Tokens of `text`, without those `before` and `after` it.

        `special`: whether control tokens in it, such as `[SEP]`, are tokens (None: they are, as
        Transformers has it) or plain text. Raises `BadText` for half a surrogate pair, for a
        character that the vocabulary cannot say, and for a token that the model has no row for.
        """
        return list(self._encoded(text, special).ids)

    def encode_spans(self, text: str, *, special: bool | None = None) -> Encoding:
        """As `encode`, with the characters of `text` that each token takes part in.

        White space between words is in no span where the vocabulary does not keep it.
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
        """Raises `BadText` for a character that BPE without an unknown token leaves out."""
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
        """Whether words can be begun with this character, or go on by it, or end in it."""
        forms = (unit, self._prefix + unit, unit + self._suffix)
        return any(self._library.token_to_id(form) is not None for form in forms)

    # ---- and back

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`, control tokens included.

        Raises `InvalidSetting` for a token that the model does not have.
        """
        text: str = self._library.decode(self._checked(tokens), skip_special_tokens=False)
        return text

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes that `tokens` stand for; raises as `decode` does."""
        if self._byte_level:
            return b"".join(map(self.token_bytes, tokens))
        return self.decode(tokens).encode()

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token adds within a text: ` the` for BERT's `the`, `ing` for `##ing`.

        Raises as `decode` does.
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
        """A stream whose strings, joined, are what its tokens add to the text of `after`."""
        return DecodedStream(self, after)

    def is_open(self, token: int) -> bool:
        """Whether the next token may change the text of this one: a byte of some character."""
        symbol = self._library.id_to_token(token) or ""
        return self._byte_fallback and BYTE.fullmatch(symbol) is not None

    def _ordinary(self) -> list[int]:
        """A token that stands for a visible character, to see what comes after it."""
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
    """Turns tokens into text as they arrive, by decoding the few that are not settled.

    How a token reads may depend on the one before it, so the last settled ones are decoded along.
    """

    def __init__(self, tokenizer: ForeignTokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(after)
        self._settled = len(self._tokens)

    def push(self, token: int, last: bool = False) -> str:
        """The text that `token` completes, maybe none; `last` completes it whatever is missing."""
        self._tokens.append(token)
        return self.close() if last else self._settle(whole=not self._tokenizer.is_open(token))

    def close(self) -> str:
        """What is left when no token was pushed as the last."""
        return self._settle(whole=True, last=True)

    def branch(self) -> DecodedStream:
        """A stream of the same text, to go on by itself from here."""
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
        if len(text) > len(known):  # what adds no text is no ground to stand on
            del self._tokens[: self._settled]
        self._settled = len(self._tokens)
        return text[len(known) :]


def load(source: str) -> tuple[dict[str, Any], Any]:
    """A `tokenizer.json`, parsed and as the library's object, without what is done around a text.

    Raises `BadTokenizer` with the library's reason, `MissingExtra` where it is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra(
            "this model's vocabulary is not GPT-2's byte-level BPE, so it needs the library "
            'tokenizers: pip install "gpt2rt[tokenizers]"'
        ) from None
    try:
        body = json.loads(source)
        # A post-processor adds tokens around a text and trims offsets; padding changes it.
        bare = {**body, "post_processor": None, "truncation": None, "padding": None}
        return body, Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises nothing more special
        raise BadTokenizer(f"not a tokenizer that the library tokenizers reads ({error})") from None


def _types(part: Any) -> Iterator[str]:
    """The types of the steps of a normalizer, pre-tokenizer or decoder."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in ("decoders", "normalizers", "pretokenizers", "processors"):
            for step in part.get(inner) or ():
                yield from _types(step)
