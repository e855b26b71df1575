"""Ways to the end of a text under a constraint, for when tokens run short.

What a constraint allows next is known from llguidance; how far the end is, is not. A beam search
looks for a short ending. It follows few branches: it may miss an ending, and what it finds need not
be the shortest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.text.tokenizers import TextTokenizer, once

if TYPE_CHECKING:
    from llguidance import LLMatcher

Flags = NDArray[np.bool_]

BRANCHES = 8  # of each kind below, tried next in the search for an ending
WIDTHS = (2, 8)  # states kept in that search, the second time if the first finds none
TRIES = 2000  # steps of that search, some 0.1 ms each
CLOSING = "\"}]),@.:;>/'-_+"  # tends to lead to an end
EXAMPLES = "0 159aAeEé\n"  # of classes of characters


class Endings:
    """Finds endings in the vocabulary of one tokenizer."""

    def __init__(self, tokenizer: TextTokenizer, speaks_of: str = "") -> None:
        """The characters of `speaks_of`, an expression, are tried early: by them a loop is left."""
        self._tokenizer = tokenizer
        single = _single_bytes(tokenizer)

        def steps(characters: str) -> list[list[int]]:
            every = (c.encode() for c in dict.fromkeys(characters))
            known = (data for data in every if single.keys() >= set(data))  # some have no bytes
            return [[single[byte] for byte in data] for data in known]

        self._closing = steps(CLOSING)
        others = "".join(c for c in speaks_of + EXAMPLES if c not in CLOSING)
        self._others = steps(others) + [[token] for token in single.values()]

    def find(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """A short way to a whole text, at most `limit` tokens; None where none was found."""
        ways = (self._search(matcher, width, 4 * limit) for width in WIDTHS)
        return next((way for way in ways if way is not None and len(way) <= limit), None)

    def _search(self, matcher: LLMatcher, width: int, depth: int) -> list[int] | None:
        """A beam search byte by byte (every byte is a token), at most `depth` bytes.

        Of states at the same depth that allow the same tokens one is followed. What is found is
        encoded anew, which makes it shorter.
        """
        beam: list[tuple[LLMatcher, list[int]]] = [(matcher, [])]
        known: set[bytes] = set()
        tries = TRIES
        while beam and tries > 0:
            for state, path in beam:
                if state.is_accepting():
                    return self._shortened(matcher, path)
            seen: dict[bytes, tuple[LLMatcher, list[int]]] = {}
            for state, path in beam:
                for step in self._steps(state) if len(path) < depth else ():
                    after = state.deep_copy()
                    tries -= 1
                    if after.try_consume_tokens(step) == len(step):
                        seen.setdefault(after.compute_bitmask(), (after, path + step))
            # What was not seen before leads out of a loop; the fewer tokens a state allows, the
            # more it is on a way that was begun rather than in free text.
            fresh = sorted(seen, key=known.__contains__)[: width // 2]
            known.update(fresh)
            tight = sorted(seen, key=lambda mask: int.from_bytes(mask).bit_count())[: width // 2]
            beam = [seen[mask] for mask in dict.fromkeys(fresh + tight)]
        return None

    def _steps(self, state: LLMatcher) -> Iterator[list[int]]:
        """What is worth trying from a state: the tokens that are forced, or else a few bytes."""
        forced = state.compute_ff_tokens()
        if forced:
            yield forced
            return
        allowed = allowed_by(state, self._tokenizer.n_vocab)
        allowed[self._tokenizer.end_of_text] = False
        for kind in (self._closing, self._others):
            fit = (step for step in kind if allowed[step[0]])
            yield from islice(fit, BRANCHES)
        if not any(allowed[step[0]] for step in self._others):  # a grammar of tokens
            yield from ([token] for token in np.flatnonzero(allowed).tolist()[:BRANCHES])

    def _shortened(self, matcher: LLMatcher, path: list[int]) -> list[int]:
        """The shorter of `path` and its text encoded anew."""
        tokenizer = self._tokenizer
        try:
            anew = tokenizer.encode(tokenizer.decode_bytes(path).decode("utf-8"))
        except UnicodeDecodeError:  # it begins or ends within a character
            return path
        return anew if len(anew) < len(path) and fits(matcher, anew) else path


def fits(matcher: LLMatcher, tokens: list[int]) -> bool:
    """Whether the text is whole after `tokens`."""
    after = matcher.deep_copy()
    return after.try_consume_tokens(tokens) == len(tokens) and after.is_accepting()


def allowed_by(matcher: LLMatcher, n_vocab: int) -> Flags:  # [n_vocab]
    """The tokens that may come next."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(bits, count=n_vocab, bitorder="little").view(np.bool_)


@once
def _single_bytes(tokenizer: TextTokenizer) -> dict[int, int]:
    """Byte -> the token that is this byte alone."""
    known = ((tokenizer.token_bytes(token), token) for token in range(tokenizer.n_vocab))
    return {data[0]: token for data, token in sorted(known) if len(data) == 1}
