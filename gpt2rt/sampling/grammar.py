"""A constraint at work: what may come next in a text that has to match it.

A `Grammar` is a constraint compiled for one vocabulary; a `Matcher` is the state of one sequence:
it masks the logits before each draw and takes the token drawn. What a state allows is computed by
`llguidance` (extra `constrain`) over the bytes of the tokens, so characters that are split between
tokens need no special care. When to end and how to draw are left to others.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import InvalidSetting, MissingExtra
from gpt2rt.sampling.constraint import KINDS, Constraint
from gpt2rt.sampling.endings import Endings, Flags, allowed_by, fits
from gpt2rt.text.tokenizers import TextTokenizer, once
from gpt2rt.text.vocabulary_files import END_OF_TEXT

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Floats = NDArray[np.float32]

# Unless the schema's own `x-guidance` says otherwise: with room for any white space a model that is
# unsure writes white space for ever.
SPACING: Any = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
}

UNFORCED = '%llguidance {"no_forcing": true}\n'
PLACE = re.compile(r"(at )?\d+\(\d+\): ")  # line and column, before what is wrong there

TIGHT = 8  # spare tokens below which every draw is looked at before it is allowed
LIKELY = 16  # tokens looked at then, the most likely ones
REUSED = 3  # tokens that may be dropped from a known ending to make it fit


class Grammar:
    """A constraint compiled for one vocabulary; shared by any number of sequences."""

    def __init__(self, constraint: Constraint, tokenizer: TextTokenizer) -> None:
        """Compile `constraint`, milliseconds; the first for a tokenizer takes some 0.3 s more.

        Raises `InvalidSetting` with the reason for what the library refuses and for what no text
        satisfies; `MissingExtra` where the library is not installed.
        """
        llguidance = _library()
        self.constraint = constraint
        self.tokenizer = tokenizer
        text = getattr(constraint, constraint.kind)
        compilers: dict[str, Callable[[], str]] = {
            "regex": lambda: llguidance.grammar_from_regex(text),
            "json_schema": lambda: llguidance.grammar_from_json_schema(text, defaults=SPACING),
            "grammar": lambda: llguidance.grammar_from_lark(text),
        }
        vocabulary = _vocabulary(tokenizer)
        try:
            source = compilers[constraint.kind]()
            self.spells_all = _spells_all(tokenizer)
            if not self.spells_all:
                source = _unforced(source)
            self._start: LLMatcher = llguidance(vocabulary, source, log_level=0)
            reason = self._start.get_error()
        except ValueError as error:
            reason = str(error)
        if reason:
            kind = KINDS[constraint.kind]
            told = _in_one_line(reason)
            if constraint.regex:
                told = PLACE.sub("", told)  # in the grammar that the library makes of it
            raise InvalidSetting(f"the {kind} is refused: {told}")
        self.begin().allowed()
        self.endings = Endings(tokenizer, constraint.regex or "")

    def begin(self) -> Matcher:
        """The state before the first token of a text."""
        return Matcher(self, self._start.deep_copy())


class Matcher:
    """How far one text has come, and what may come next."""

    def __init__(self, grammar: Grammar, matcher: LLMatcher) -> None:
        """Made by `Grammar.begin`."""
        self._grammar = grammar
        self._matcher = matcher
        self._end = grammar.tokenizer.end_of_text
        self._row: Floats = np.empty(0, np.float32)
        self._ended = False
        self._way: list[int] | None = None  # tokens that were seen to lead to an end
        self._look_at: float = np.inf  # tokens left at which the way to the end is looked for

    def fork(self) -> Matcher:
        """Another text with the same past, as a beam or a draft needs it."""
        twin = Matcher(self._grammar, self._matcher.deep_copy())
        twin._ended, twin._way, twin._look_at = self._ended, self._way, self._look_at
        return twin

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing can follow: it has to end now."""
        return self._ended or (self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def accepting(self) -> bool:
        """Whether the text so far satisfies the constraint as it stands."""
        return self._ended or self._matcher.is_accepting()

    def allowed(self) -> Flags:  # [n_vocab]
        """The tokens that may come next: `<|endoftext|>` exactly where the text may end.

        Raises `InvalidSetting` where there is none, because the constraint cannot be satisfied or
        has grown too complex for the library.
        """
        allowed = allowed_by(self._matcher, self._grammar.tokenizer.n_vocab)
        if self._matcher.is_error():
            reason = self._matcher.get_error()
            dead = reason.startswith("NoExtension")
            none = "no text satisfies it"
            if not self._grammar.spells_all:
                none += ", or none that this vocabulary can spell"
            raise self._stuck(none if dead else _in_one_line(reason))
        allowed[self._end] &= self._matcher.is_accepting()  # a grammar may name it elsewhere
        if not allowed.any():
            raise self._stuck(f"a text ends where `start` ends, {END_OF_TEXT} is not written")
        return allowed

    def _stuck(self, fact: str) -> InvalidSetting:
        kind = KINDS[self._grammar.constraint.kind]
        return InvalidSetting(f"the {kind} leaves no token that could come next: {fact}")

    def mask(self, logits: Floats, left: int | None = None) -> Floats:  # [n_vocab] -> [n_vocab]
        """`logits` with -inf for the tokens that cannot come next.

        With `left`, how many tokens may still be drawn (this one included, `<|endoftext|>` not),
        the text is led to an end in time: while there are tokens to spare nothing changes, then
        only tokens stay (of the most likely ones) after which what is left is enough. An ending is
        found by a search that follows few branches; where it finds none the text may be cut short.

        The row returned is good until the next call. Raises `InvalidSetting` as `allowed` does.
        """
        allowed = self.allowed()
        if left is not None and left <= self._look_at:
            self._keep_room(allowed, logits, left)
        if len(self._row) != len(logits):
            self._row = np.empty(len(logits), np.float32)
        self._row.fill(-np.inf)
        known = min(len(logits), len(allowed))  # a model may have rows that no symbol has
        np.copyto(self._row[:known], logits[:known], where=allowed[:known])
        return self._row

    def take(self, token: int) -> None:
        """Go on by `token`. Raises `InvalidSetting` for one that `allowed` does not have."""
        if self._ended or not self._matcher.consume_token(token):
            text = self._grammar.tokenizer.token_bytes(token)
            reason = self._matcher.get_error()
            fact = _in_one_line(reason) if reason else "the text has ended"
            raise InvalidSetting(f"token {token} ({text!r}) cannot follow: {fact}")
        self._ended = token == self._end
        if self._way and self._way[0] == token:
            self._way = self._way[1:]

    # ---- coming to an end in time

    def _keep_room(self, allowed: Flags, logits: Floats, left: int) -> None:
        """Clear the flags of tokens after which `left - 1` more would not be enough."""
        self._way = self._still(self._matcher, left)
        if self._way is None:
            self._way = self._grammar.endings.find(self._matcher, left)
        if self._way is None:
            self._look_at = left // 2
            return
        spare = left - len(self._way)
        if spare >= TIGHT:
            self._look_at = left - spare // 4  # a token seldom makes the way longer by 3
            return
        ids = np.flatnonzero(allowed[: len(logits)])
        if len(ids) > LIKELY:
            ids = ids[np.argpartition(logits[ids], -LIKELY)[-LIKELY:]]
        likely: list[int] = ids.tolist()
        kept = [token for token in likely if self._leaves_room(token, left - 1)]
        allowed[:] = False
        allowed[kept + self._way[:1]] = True
        allowed[self._end] = self._matcher.is_accepting()

    def _leaves_room(self, token: int, left: int) -> bool:
        after = self._matcher.deep_copy()
        return after.consume_token(token) and self._still(after, left) is not None

    def _still(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """The ending that was known, or what remains of it, where it still is one."""
        way = self._way or []
        rests = (way[start:] for start in range(min(REUSED, len(way)) + 1))
        return next((w for w in rests if len(w) <= limit and fits(matcher, w)), None)


@once
def _vocabulary(tokenizer: TextTokenizer) -> LLTokenizer:
    """The vocabulary as llguidance wants it: the bytes of every token, and which one ends."""
    from llguidance import LLTokenizer

    return LLTokenizer(_Wrapper(tokenizer))  # type: ignore[arg-type]


class _Wrapper:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.eos_token_id = tokenizer.end_of_text
        control = {token.id for token in tokenizer.special_tokens if token.special}
        self.special_token_ids = sorted(control | {tokenizer.end_of_text, *tokenizer.ends})
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab)]
        self._tokenizer: TextTokenizer = weakref.proxy(
            tokenizer
        )  # what is made of this outlives no tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, special=False)


@once
def _spells_all(tokenizer: TextTokenizer) -> bool:
    """Whether every byte is a token, and the tokens of a text go on by that text anywhere.

    It is so for byte-level BPE. WordPiece has no bytes, and one token for `the` at the start of a
    text and for ` the` within it.
    """
    every = {tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab)}
    if not every.issuperset(bytes([byte]) for byte in range(256)):
        return False
    return b"".join(map(tokenizer.token_bytes, tokenizer.encode("the"))) == b"the"


def _unforced(source: str) -> str:
    """The grammar without text that the library encodes by itself where there is no other way on.

    What it would encode may have other tokens within a text, or none.
    """
    if not source.startswith("{"):
        return source if source.startswith("%llguidance") else UNFORCED + source
    body = json.loads(source)
    for grammar in body["grammars"]:
        schema = grammar.pop("json_schema", None)
        lark = grammar.get("lark_grammar") or f"start: %json {json.dumps(schema)}"
        grammar["lark_grammar"] = UNFORCED + lark
    return json.dumps(body)


def _library() -> type[LLMatcher]:
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise MissingExtra(
            'constrained output needs llguidance: pip install "gpt2rt[constrain]"'
        ) from None
    return LLMatcher


def _in_one_line(reason: str) -> str:
    """What the library says, without the source and the states that it quotes below."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    where = PLACE.match(lines[0])
    told = next((line for line in lines if line.startswith("error: ")), lines[0])
    if told is not lines[0] and where:
        told = where[0] + told.removeprefix("error: ")
    return told.removeprefix("error: ").removesuffix(":")
