"""GPT-2's byte-level BPE: text to tokens and back, by OpenAI's `encoder.json` and `vocab.bpe`.

A restatement of `encoder.py` in github.com/openai/gpt-2, equal to it token for token. A symbol is a
string of the 256 characters that stand for bytes, a merge makes one symbol of two neighbours, and
its rank is its place in `vocab.bpe`. Which tokens a model is given is left to others.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from heapq import heappop, heappush
from itertools import accumulate, chain, count, pairwise, product
from pathlib import Path

import regex

from gpt2rt.errors import BadText, BadTokenizer, InvalidSetting

END_OF_TEXT = "<|endoftext|>"
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
# No word holds a space after something else, so the much faster `re` may cut the text there first;
# most pieces are known already. Four control characters are spaces to `re` but not to `regex`.
PIECE = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|\s+")

# The characters of a word and white space, as the `tokenizers` library has them for added tokens.
LETTER = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d]"
WORD_START, WORD_END = regex.compile(LETTER), regex.compile(LETTER + r"\Z")
SPACE_START, SPACE_END = regex.compile(r"\s*"), regex.compile(r"\s*\Z")

SPECIAL_TOKENS = "special_tokens.json"
SPECIAL = re.compile(r"<\|.*\|>")  # symbols that are tokens of their own, made by no merge
MERGES = re.compile(r"(?:[^ \n]+ [^ \n]+(?:\n|$))*")  # lines of two symbols
SHORT = 32  # longer pieces are not remembered, longer words not merged the simple way
REMEMBERED = 65_536  # pieces; some 15 MB
NO_RANK = sys.maxsize
REMEDY = "copy encoder.json and vocab.bpe from the model as published"


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that is found in a text as a whole, before any merge: a fine-tune's added token.

    special: a control token, such as `<|user|>`; otherwise an ordinary word that was added.
    matched: whether it is found in a text at all; the model may write one that never is.
    normalized: found in a second pass only, in what the tokens of the first pass leave over.
    lstrip, rstrip: takes the white space on its left or right with it.
    single_word: found only where no letter or digit touches it.
    """

    id: int
    text: str
    matched: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = True
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a vocabulary other than OpenAI's has besides its symbols: `special_tokens.json`.

    `n_vocab` counts the ids of the model; those that stand for nothing decode to nothing, and a
    text with a token beyond them is refused. `prefix_space` begins every text with a space.
    `ends`: every id that ends a text (None: `end_of_text` alone). `before` and `after`: tokens that
    the tokenizer puts around every prompt.
    """

    n_vocab: int
    start_of_text: int
    end_of_text: int
    tokens: tuple[SpecialToken, ...]
    prefix_space: bool = False
    ends: tuple[int, ...] | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of a text and the characters that each takes part in, from and up to."""

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a text from character `start`: one added token, or text without any."""

    text: str
    start: int
    token: int | None


class WithSpecialTokens:
    """What every tokenizer says of its `SpecialTokens`."""

    _special: SpecialTokens

    @property
    def n_vocab(self) -> int:
        """How many tokens there are: 50,257 in every released model."""
        return self._special.n_vocab

    def __len__(self) -> int:
        return self.n_vocab

    @property
    def end_of_text(self) -> int:
        """The token that separates documents: `<|endoftext|>`, 50256 in every released model."""
        return self._special.end_of_text

    @property
    def start_of_text(self) -> int:
        """The token that a text from nothing begins with: `end_of_text` in every released model."""
        return self._special.start_of_text

    @property
    def prefix_space(self) -> bool:
        """Whether a text is begun with a space."""
        return self._special.prefix_space

    @property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends a text: `end_of_text`, unless a fine-tune has others or none."""
        ends = self._special.ends
        return (self.end_of_text,) if ends is None else ends

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens that stand before every prompt; none in released models."""
        return self._special.before

    @property
    def after(self) -> tuple[int, ...]:
        """Tokens that stand after every prompt; none in released models."""
        return self._special.after

    @property
    def special_tokens(self) -> tuple[SpecialToken, ...]:
        """The tokens that are found in a text as a whole, and others made by no merge."""
        return self._special.tokens


class Tokenizer(WithSpecialTokens):
    """A vocabulary and its merges: made by `read`, never changed, safe to share among threads."""

    def __init__(
        self,
        encoder: Mapping[str, int],
        ranks: Mapping[str, int],
        special: SpecialTokens | None = None,
    ) -> None:
        """Takes symbol -> token and `"left right"` -> rank, both as checked by `read`.

        `special` None: OpenAI's one special token, `<|endoftext|>`.
        """
        if special is None:
            end = encoder[END_OF_TEXT]
            special = SpecialTokens(len(encoder), end, end, (SpecialToken(end, END_OF_TEXT),))
        self._encoder = encoder
        self._ranks = ranks
        self._special = special
        self._passes = _passes(special.tokens)
        plain = {special.end_of_text, special.start_of_text, encoder.get(END_OF_TEXT)}
        own = (t for t in special.tokens if t.special and t.matched and t.id not in plain)
        self._has_control = any(own)
        self._beyond = any(token >= special.n_vocab for token in encoder.values())
        # Whether a text without its control tokens is one part, as in OpenAI's vocabulary.
        self._whole = not (special.prefix_space or self._beyond) and all(
            known.control for known in self._passes
        )
        self._symbols = _Symbols(special.n_vocab)
        self._symbols.update((token.id, _symbols_of(token.text)) for token in special.tokens)
        self._symbols.update(zip(encoder.values(), encoder, strict=True))
        self._tokens = _Memory(self._tokens_of)

    @classmethod
    def read(cls, directory: Path) -> Tokenizer:
        """Read `encoder.json`, `vocab.bpe` and, where there is one, `special_tokens.json`.

        `BadTokenizer` says which is wrong, and how.
        """
        special = read_special(directory / SPECIAL_TOKENS)
        encoder = _read_encoder(directory / "encoder.json", special)
        return cls(encoder, _read_ranks(directory / "vocab.bpe", encoder), special)

    @property
    def has_control_tokens(self) -> bool:
        """Whether a fine-tune has control tokens of its own, such as `<|user|>`."""
        return self._has_control

    def encode(self, text: str, *, special: bool | None = None) -> list[int]:
        """Tokens of `text`; words that a fine-tune added are one token each.

        `special`: whether control tokens in it (`<|endoftext|>`, `<|user|>`) are one token, too, or
        plain text; None: one token where the vocabulary has control tokens of its own, as a chat
        model's has, and plain text otherwise, as in OpenAI's code. `before` and `after` are left
        to the caller.

        Raises `BadText` for a lone surrogate, which no UTF-8 can stand for, for a byte that a
        vocabulary other than OpenAI's has no token for, and for a token the model has no row for.
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
        """As `encode`, with the characters of `text` that each token takes part in.

        A character that is split over several tokens is in the span of each of them. A space that
        `prefix_space` puts before the text is no character of it.
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

    def _part_tokens(self, part: _Part) -> list[int]:
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

    def _prefixed(self, part: _Part) -> bool:
        return self._special.prefix_space and not part.text.startswith(" ")

    def _spans(self, part: _Part, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The characters of each of the tokens of a part without added tokens."""
        extra = int(self._prefixed(part))
        place = [part.start] * extra  # of each byte, the character it belongs to
        for number, character in enumerate(part.text, part.start):
            place += [number] * len(character.encode("utf-8"))
        ends = list(accumulate(len(self.token_bytes(token)) for token in tokens))
        found = [(place[a], place[b - 1] + 1) for a, b in pairwise([0, *ends])]
        if extra and ends[0] == 1:  # the space alone
            found[0] = (part.start, part.start)
        return found

    def _parts(self, text: str, special: bool) -> list[_Part]:
        """The text cut at added tokens, in two passes; raises `BadText` for half a surrogate."""
        check_text(text)
        parts = [_Part(text, 0, None)] if text else []
        for known in self._passes:
            cut = (known.cut(part, special) if part.token is None else (part,) for part in parts)
            parts = list(chain.from_iterable(cut))
        return parts

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`: U+FFFD where their bytes are not UTF-8, otherwise nothing changed.

        Raises `InvalidSetting` for a token that the vocabulary does not have.
        """
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes that `tokens` stand for; raises as `decode` does."""
        tokens = list(tokens)
        try:
            symbols = "".join([self._symbols[token] for token in tokens])
        except KeyError as error:
            raise InvalidSetting(
                f"token {error.args[0]} is not in the vocabulary, which has 0 to {self.n_vocab - 1}"
            ) from None
        return symbols.translate(LATIN_1).encode("latin-1")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, often a part of a character; raises as `decode` does."""
        return self.decode_bytes((token,))

    def stream(self, after: Sequence[int] = ()) -> TextStream:
        """A stream for the text that follows the tokens `after`: bytes read the same after any."""
        return TextStream(self)

    def _tokens_of(self, piece: str) -> tuple[int, ...]:
        words = WORD.findall(piece)
        if words != [piece]:
            return tuple(chain.from_iterable(map(self._tokens.__getitem__, words)))
        symbols = [SYMBOLS[byte] for byte in piece.encode("utf-8")]
        merge = _merge if len(symbols) <= SHORT else _merge_long
        try:
            return tuple([self._encoder[symbol] for symbol in merge(symbols, self._ranks)])
        except KeyError as error:
            raise BadText(
                f"the vocabulary has no token for byte {LATIN_1[ord(error.args[0])]:#04x} of "
                f"{piece!r:.40}; leave the character out"
            ) from None


class _Pass:
    """Finds added tokens in a text, at each place the longest: one pass of Hugging Face's two."""

    def __init__(self, tokens: Sequence[SpecialToken]) -> None:
        self._tokens = {token.text: token for token in tokens}
        texts = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts)))
        self.control = all(token.special for token in tokens)

    def cut(self, part: _Part, special: bool) -> Iterable[_Part]:
        """The added tokens of `part` (control tokens where `special`) and the text between."""
        return (part,) if self.control and not special else self._cut(part, special)

    def _cut(self, part: _Part, special: bool) -> Iterator[_Part]:
        text, done = part.text, 0
        for found in self._pattern.finditer(text):
            token = self._tokens[found[0]]
            start, end = found.span()
            alone = not (WORD_END.search(text[:start]) or WORD_START.match(text, end))
            if (token.special and not special) or (token.single_word and not alone):
                continue
            if token.lstrip:
                start = max(done, SPACE_END.search(text[:start]).start())
            if token.rstrip:
                end = SPACE_START.match(text, end).end()
            if start >= end:
                continue  # white space that the token before it took
            if done < start:
                yield _Part(text[done:start], part.start + done, None)
            first = max(start, done)
            yield _Part(text[first:end], part.start + first, token.id)
            done = end
        if done < len(text):
            yield _Part(text[done:], part.start + done, None)


def _passes(tokens: Sequence[SpecialToken]) -> tuple[_Pass, ...]:
    """The first pass and the second, where there are tokens for them."""
    groups = ([t for t in tokens if t.matched and t.normalized is n] for n in (False, True))
    return tuple(_Pass(group) for group in groups if group)


def check_text(text: object) -> None:
    """Raises `BadText` for what is no text, and for half a surrogate pair, which no UTF-8 has."""
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
    """Turns tokens into text as they arrive, never splitting a character.

    The strings it returns, joined, are what `Tokenizer.decode` returns for the tokens together.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int, last: bool = False) -> str:
        """The text that `token` completes, maybe none; `last` completes it whatever is missing."""
        return self._utf8.decode(self._tokenizer.token_bytes(token), last)

    def close(self) -> str:
        """What is left when no token was pushed as the last: U+FFFD, or nothing."""
        return self._utf8.decode(b"", True)

    def branch(self) -> TextStream:
        """A stream of the same text, to go on by itself from here."""
        other = TextStream(self._tokenizer)
        other._utf8.setstate(self._utf8.getstate())
        return other


def byte_symbols() -> dict[int, str]:
    """The character that stands for each byte, as `bytes_to_unicode` of OpenAI's `encoder.py`.

    A byte that is visible as Latin-1 stands for itself, the others follow from U+0100 on.
    """
    spare = map(chr, count(0x100))
    return {
        byte: chr(byte) if chr(byte).isprintable() and byte != ord(" ") else next(spare)
        for byte in range(256)
    }


SYMBOLS = byte_symbols()
ALPHABET = re.compile(f"[{re.escape(''.join(SYMBOLS.values()))}]+")
LATIN_1 = {ord(symbol): byte for byte, symbol in SYMBOLS.items()}


class _Symbols(dict[int, str]):
    """Token -> its symbols: none for an id of the model alone, `KeyError` for what is no id."""

    def __init__(self, n_vocab: int) -> None:
        self._ids = range(n_vocab)

    def __missing__(self, token: int) -> str:
        if token in self._ids:
            return ""
        raise KeyError(token)


class _Memory(dict[str, tuple[int, ...]]):
    """Remembers the tokens of short pieces; forgets them all rather than grow without end."""

    def __init__(self, compute: Callable[[str], tuple[int, ...]]) -> None:
        self._compute = compute

    def __missing__(self, piece: str) -> tuple[int, ...]:
        tokens = self._compute(piece)
        if len(piece) <= SHORT:
            if len(self) >= REMEMBERED:
                self.clear()
            self[piece] = tokens
        return tokens


def _merge(word: list[str], ranks: Mapping[str, int]) -> list[str]:
    """Join the pair of the lowest rank wherever it is, left to right, until no pair has a rank."""
    found = [ranks.get(f"{a} {b}", NO_RANK) for a, b in pairwise(word)]
    rank = min(found, default=NO_RANK)
    while rank != NO_RANK:
        i = found.index(rank)
        word[i] += word.pop(i + 1)
        del found[i]
        if i > 0:
            found[i - 1] = ranks.get(f"{word[i - 1]} {word[i]}", NO_RANK)
        if i < len(found):
            found[i] = ranks.get(f"{word[i]} {word[i + 1]}", NO_RANK)
        if rank not in found:
            rank = min(found, default=NO_RANK)
    return word


def _merge_long(word: list[str], ranks: Mapping[str, int]) -> list[str]:
    """The same in n log n: symbols keep their places, pairs are found by rank."""
    word.append("")  # the end; a symbol joined to the one before it is left empty, too
    before = list(range(-1, len(word) - 1))
    after = list(range(1, len(word) + 1))
    starts: dict[int, list[int]] = {}  # rank -> where such a pair starts, or started
    order: list[int] = []  # a heap of the ranks in `starts`

    def note(i: int, j: int) -> None:
        rank = ranks.get(f"{word[i]} {word[j]}")
        if rank in starts:
            starts[rank].append(i)
        elif rank is not None:
            starts[rank] = [i]
            heappush(order, rank)

    for i in range(len(word) - 1):
        note(i, i + 1)
    while order:
        rank = heappop(order)
        for i in sorted(starts.pop(rank)):
            j = after[i]
            if ranks.get(f"{word[i]} {word[j]}") == rank:
                word[i], word[j] = word[i] + word[j], ""
                after[i] = after[j]
                before[after[i]] = i
                note(before[i], i)
                note(i, after[i])
    return [symbol for symbol in word if symbol]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadTokenizer(f"{path}: no such file; {REMEDY}") from None
    except UnicodeDecodeError as error:
        raise BadTokenizer(f"{path}: byte {error.start} is not UTF-8; {REMEDY}") from None
    except OSError as error:
        raise BadTokenizer(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None


def read_special(path: Path) -> SpecialTokens | None:
    if not path.exists():
        return None
    try:
        body = json.loads(_read_text(path))
        body["tokens"] = tuple(SpecialToken(**token) for token in body["tokens"])
        lists = {name: tuple(value) for name, value in body.items() if type(value) is list}
        special = SpecialTokens(**(body | lists))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadTokenizer(f"{path}: not what it should be ({error}); {REMEDY}") from None
    if wrong := _wrong_in_special(special):
        raise BadTokenizer(f"{path}: {wrong}; {REMEDY}")
    return special


def _wrong_in_special(special: SpecialTokens) -> str | None:
    wanted = {"int": int, "bool": bool, "str": str}
    for kind, holders in ((SpecialTokens, [special]), (SpecialToken, special.tokens)):
        for field, holder in product(fields(kind), holders):
            value = getattr(holder, field.name)
            if value is None and field.default is None:
                continue
            if type(value) is not wanted.get(str(field.type), tuple):
                return f"{field.name} is {value!r:.40}, not of type {field.type}"
    ids = [token.id for token in special.tokens]
    known = range(special.n_vocab)
    listed = (*(special.ends or ()), *special.before, *special.after)
    if odd := [token for token in listed if type(token) is not int]:
        return f"{odd[0]!r:.40} is no token"
    named = (*ids, special.start_of_text, special.end_of_text, *listed)
    if strange := [token for token in named if token not in known]:
        return f"token {min(strange)} is not one of the {special.n_vocab}"
    texts = [token.text for token in special.tokens]
    if len(set(ids)) < len(ids) or len(set(texts)) < len(texts) or "" in texts:
        return "a token is there twice, or has no text"
    return None


def _read_encoder(path: Path, special: SpecialTokens | None) -> dict[str, int]:
    try:
        encoder: dict[str, int] = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadTokenizer(f"{path}: not JSON ({error}); {REMEDY}") from None
    if wrong := _wrong_in(encoder, special):
        raise BadTokenizer(f"{path}: {wrong}; {REMEDY}")
    return encoder


def _wrong_in(encoder: object, special: SpecialTokens | None) -> str | None:
    """What keeps parsed JSON from being a vocabulary."""
    if not isinstance(encoder, dict):
        return f"holds {type(encoder).__name__}, not an object of symbols and their ids"
    if not set(map(type, encoder.values())) <= {int}:
        symbol, value = next((s, i) for s, i in encoder.items() if type(i) is not int)
        return f"the id of {symbol!a:.40} is {value!r:.40}, not a whole number"
    others = {token.id for token in special.tokens} if special else set()
    ids = sorted([*encoder.values(), *(others - set(encoder.values()))])
    if special and (ids[:1] < [0] or len(set(ids)) < len(ids)):
        return "an id is negative or there twice"
    if not special and ids != list(range(len(ids))):
        strange = next(min(pair) for pair in enumerate(ids) if pair[0] != pair[1])
        return f"the ids are not 0 to {len(ids) - 1}, each once (look for {strange})"
    # A vocabulary may lack the symbols of bytes that it never saw: a text with one is refused.
    if not special and END_OF_TEXT not in encoder:
        return f"symbol {END_OF_TEXT!a} is missing"
    if "" in encoder or not ALPHABET.fullmatch("".join(encoder)):
        symbol = next(symbol for symbol in encoder if not ALPHABET.fullmatch(symbol))
        return f"symbol {symbol!a:.40} is not made of the 256 characters that stand for bytes"
    return None


def _read_ranks(path: Path, encoder: Mapping[str, int]) -> dict[str, int]:
    version, *merges = _read_text(path).removesuffix("\n").split("\n")
    if not version.startswith("#version"):
        raise BadTokenizer(f"{path}: line 1 is {version!a:.40}, not a `#version`; {REMEDY}")
    text = "\n".join(merges)  # operations on the whole are several times as fast
    made = set(text.replace(" ", "").split("\n")) if merges else set()
    symbols = set(text.replace("\n", " ").split(" ")) if merges else set()
    known = encoder.keys()
    if not (MERGES.fullmatch(text) and known >= made and known >= symbols):
        raise BadTokenizer(f"{path}: {_wrong_in_merges(merges, encoder)}; {REMEDY}")
    orphans = [s for s in known - made if len(s) > 1 and not SPECIAL.fullmatch(s)]
    if orphans:
        first = min(orphans, key=encoder.__getitem__)
        raise BadTokenizer(
            f"{path}: {len(orphans)} symbols of encoder.json, such as {first!a:.40}, "
            f"are made by no merge; the file is cut short or damaged; {REMEDY}"
        )
    return dict(zip(merges, range(len(merges)), strict=True))


def _wrong_in_merges(merges: Sequence[str], encoder: Mapping[str, int]) -> str:
    for number, merge in enumerate(merges, 2):
        left, _, right = merge.partition(" ")
        if left not in encoder or right not in encoder or left + right not in encoder:
            if merge.count(" ") != 1:
                wrong = f"{merge!a:.40} is not two symbols with a space between them"
            else:
                strange = next(s for s in (left, right, left + right) if s not in encoder)
                wrong = f"{strange!a:.40} is not in encoder.json"
            return f"line {number}: {wrong}"
    raise AssertionError("a merge that is wrong as a text is wrong by itself")
