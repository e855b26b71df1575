"""Applies a constraint to logits, so that a generated text matches it.

A `Grammar` is a constraint compiled for one vocabulary; a `Matcher` is the state of one sequence:
it masks the logits before each draw and takes the token drawn. `llguidance` (extra `constrain`)
computes the allowed tokens over their bytes, so characters that are split between tokens need no
special care.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import InvalidSetting, missing_extra
from gpt2rt.sampling.constraint import KINDS, Constraint
from gpt2rt.sampling.endings import Endings, Flags, allowed_by, fits
from gpt2rt.sampling.largest import largest
from gpt2rt.text.tokenizers import TextTokenizer, once_per_tokenizer
from gpt2rt.text.vocabulary_files import END_OF_TEXT

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Floats = NDArray[np.float32]

# Defaults, which a schema's `x-guidance` may override. If any white space were allowed, an unsure
# model would write white space without end.
SPACING: Any = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
}

UNFORCED = '%llguidance {"no_forcing": true}\n'
PLACE = re.compile(r"(at )?\d+\(\d+\): ")  # line and column, in the library's messages

TIGHT = 8  # with fewer spare tokens, every candidate is checked before it is allowed
LIKELY = 16  # the most likely tokens, which are checked then
REUSED = 3  # tokens that may be dropped from the start of a known ending


class Grammar:
    """A constraint compiled for one vocabulary; shared by any number of sequences."""

    def __init__(self, constraint: Constraint, tokenizer: TextTokenizer) -> None:
        """Compile `constraint`, in milliseconds; the first for a tokenizer takes 0.3 s more.

        Raises `InvalidSetting` for a constraint that the library refuses or that no text matches,
        `MissingExtra` if the library is not installed.
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
            message = _in_one_line(reason)
            if constraint.regex:
                message = PLACE.sub("", message)  # a place in the library's own grammar
            raise InvalidSetting(f"the {kind} is refused: {message}", "constraint")
        self.begin().allowed()
        self.endings = Endings(tokenizer, constraint.regex or "")

    def begin(self) -> Matcher:
        """The state before the first token of a text."""
        return Matcher(self, self._start.deep_copy())


class Matcher:
    """The state of one text under a constraint: which tokens may come next."""

    def __init__(self, grammar: Grammar, matcher: LLMatcher) -> None:
        """Made by `Grammar.begin`."""
        self._grammar = grammar
        self._matcher = matcher
        self._end = grammar.tokenizer.end_of_text
        self._row: Floats = np.empty(0, np.float32)
        self._ended = False
        self._ending: list[int] | None = None  # tokens known to complete the text
        self._search_at: float = np.inf  # tokens left at which an ending is searched for

    def fork(self) -> Matcher:
        """An independent copy of this state, for a beam or a draft."""
        twin = Matcher(self._grammar, self._matcher.deep_copy())
        twin._ended, twin._ending = self._ended, self._ending
        twin._search_at = self._search_at
        return twin

    @property
    def complete(self) -> bool:
        """Whether the text matches and no token can follow: it has to end now."""
        return self._ended or (self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def accepting(self) -> bool:
        """Whether the text so far matches the constraint."""
        return self._ended or self._matcher.is_accepting()

    def allowed(self) -> Flags:  # [n_vocab]
        """Which tokens may come next, as bool; `<|endoftext|>` exactly if the text may end.

        Raises `InvalidSetting` if there is none, since no text matches or the constraint became too
        complex for the library.
        """
        allowed = allowed_by(self._matcher, self._grammar.tokenizer.n_vocab)
        if self._matcher.is_error():
            reason = self._matcher.get_error()
            dead = reason.startswith("NoExtension")
            none = "no text satisfies it"
            if not self._grammar.spells_all:
                none += ", or none that this vocabulary can spell"
            raise self._stuck(none if dead else _in_one_line(reason))
        allowed[self._end] &= (
            self._matcher.is_accepting()
        )  # a grammar may have this token elsewhere
        if not allowed.any():
            raise self._stuck(f"a text ends where `start` ends, {END_OF_TEXT} is not written")
        return allowed

    def _stuck(self, fact: str) -> InvalidSetting:
        kind = KINDS[self._grammar.constraint.kind]
        why = f"the {kind} leaves no token that could come next: {fact}"
        return InvalidSetting(why, "constraint")

    def mask(self, logits: Floats, left: int | None = None) -> Floats:  # [n_vocab] -> [n_vocab]
        """`logits` float32 with -inf for the tokens that may not come next.

        `left` is the number of tokens that may still be drawn, including this one and without
        `<|endoftext|>` (None: no limit). When few are left, only tokens stay, of the most likely
        ones, from which the text can be completed in time. The search for endings is not
        exhaustive; if it finds none the text may be cut off.

        The returned array is valid until the next call. Raises as `allowed`.
        """
        allowed = self.allowed()
        if left is not None and left <= self._search_at:
            self._keep_room(allowed, logits, left)
        if len(self._row) != len(logits):
            self._row = np.empty(len(logits), np.float32)
        self._row.fill(-np.inf)
        known = min(
            len(logits), len(allowed)
        )  # a model may have more rows than the vocabulary has symbols
        np.copyto(self._row[:known], logits[:known], where=allowed[:known])
        return self._row

    def take(self, token: int) -> None:
        """Add the token that was drawn. Raises `InvalidSetting` for one that is not allowed."""
        if self._ended or not self._matcher.consume_token(token):
            text = self._grammar.tokenizer.token_bytes(token)
            reason = self._matcher.get_error()
            fact = _in_one_line(reason) if reason else "the text has ended"
            raise InvalidSetting(f"token {token} ({text!r}) cannot follow: {fact}")
        self._ended = token == self._end
        if self._ending and self._ending[0] == token:
            self._ending = self._ending[1:]

    def _keep_room(self, allowed: Flags, logits: Floats, left: int) -> None:
        """Disallow tokens after which the text could not be completed with `left - 1` more."""
        self._ending = self._known_ending(self._matcher, left)
        if self._ending is None:
            self._ending = self._grammar.endings.find(self._matcher, left)
        if self._ending is None:
            self._search_at = left // 2
            return
        spare = left - len(self._ending)
        if spare >= TIGHT:
            self._search_at = left - spare // 4  # a token seldom makes the ending 3 tokens longer
            return
        ids = np.flatnonzero(allowed[: len(logits)])
        if len(ids) > LIKELY:
            ids = ids[largest(logits[ids], LIKELY)]
        likely: list[int] = ids.tolist()
        safe = [token for token in likely if self._leaves_room(token, left - 1)]
        allowed[:] = False
        allowed[safe + self._ending[:1]] = True
        allowed[self._end] = self._matcher.is_accepting()

    def _leaves_room(self, token: int, left: int) -> bool:
        after = self._matcher.deep_copy()
        return after.consume_token(token) and self._known_ending(after, left) is not None

    def _known_ending(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """The known ending, or the rest of it, if it completes the text in `limit` tokens."""
        ending = self._ending or []
        rests = (ending[start:] for start in range(min(REUSED, len(ending)) + 1))
        return next((rest for rest in rests if len(rest) <= limit and fits(matcher, rest)), None)


@once_per_tokenizer
def _vocabulary(tokenizer: TextTokenizer) -> LLTokenizer:
    """The vocabulary for llguidance: the bytes of every token, and the token that ends a text."""
    from llguidance import LLTokenizer

    return LLTokenizer(_TokenizerAdapter(tokenizer))  # type: ignore[arg-type]


class _TokenizerAdapter:
    """A tokenizer with the attributes that llguidance reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.eos_token_id = tokenizer.end_of_text
        control = {token.id for token in tokenizer.special_tokens if token.special}
        self.special_token_ids = sorted(control | {tokenizer.end_of_text, *tokenizer.ends})
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab)]
        # Weak, since the cache of `once_per_tokenizer` must not keep its tokenizers alive.
        self._tokenizer: TextTokenizer = weakref.proxy(tokenizer)

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, special=False)


@once_per_tokenizer
def _spells_all(tokenizer: TextTokenizer) -> bool:
    """Whether every byte is a token, and tokens have the same bytes anywhere in a text.

    So it is with byte-level BPE. WordPiece has no bytes, and a single token for `the` at the start
    of a text and ` the` within it.
    """
    every = {tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab)}
    if not every.issuperset(bytes([byte]) for byte in range(256)):
        return False
    return b"".join(map(tokenizer.token_bytes, tokenizer.encode("the"))) == b"the"


def _unforced(source: str) -> str:
    """The grammar with forced tokens turned off.

    Where only one text can follow, the library would encode that text by itself, which may give
    other tokens than within the text, or none.
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
        raise missing_extra("constrain", "constrained output needs llguidance") from None
    return LLMatcher


def _in_one_line(reason: str) -> str:
    """The library's message in one line, without the source and states that it quotes."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    where = PLACE.match(lines[0])
    message = next((line for line in lines if line.startswith("error: ")), lines[0])
    if message is not lines[0] and where:
        message = where[0] + message.removeprefix("error: ")
    return message.removeprefix("error: ").removesuffix(":")
