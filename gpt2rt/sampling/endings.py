"""Searches for short endings of a text under a constraint, for texts of limited length.

llguidance says which tokens a constraint allows next, but not how many are needed to complete the
text. So a beam search looks for a short ending. It follows few branches: it may find none although
there is one, and not the shortest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2rt.text.tokenizers import TextTokenizer, once_per_tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

Flags = NDArray[np.bool_]

BRANCHES = 8  # tokens of each kind below that are tried at every step
WIDTHS = (2, 8)  # widths of the beam: the second if the first finds no ending
TRIES = 2000  # most steps of a search, of about 0.1 ms
CLOSING = "\"}]),@.:;>/'-_+"  # characters that often complete something
EXAMPLES = "0 159aAeEé\n"  # one character of each class


class Endings:
    """Finds endings in the tokens of one tokenizer."""

    def __init__(self, tokenizer: TextTokenizer, expression: str = "") -> None:
        """`expression` is the constraint's regular expression, if it is one.

        Its characters are tried first, since they may end a repetition.
        """
        self._tokenizer = tokenizer
        single = _single_bytes(tokenizer)

        def steps(characters: str) -> list[list[int]]:
            every = (c.encode() for c in dict.fromkeys(characters))
            known = (data for data in every if single.keys() >= set(data))  # some have no bytes
            return [[single[byte] for byte in data] for data in known]

        self._closing = steps(CLOSING)
        others = "".join(c for c in expression + EXAMPLES if c not in CLOSING)
        self._others = steps(others) + [[token] for token in single.values()]

    def find(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """A short sequence of at most `limit` tokens that completes the text; None: none found."""
        endings = (self._search(matcher, width, 4 * limit) for width in WIDTHS)
        return next((e for e in endings if e is not None and len(e) <= limit), None)

    def _search(self, matcher: LLMatcher, width: int, depth: int) -> list[int] | None:
        """A beam search over bytes (every byte is a token), of at most `depth` of them.

        Of states at the same depth that allow the same tokens, one is followed. The ending found is
        encoded again, which makes it shorter.
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
            # States not seen before leave a repetition; states that allow few tokens are within a
            # structure rather than in free text. Both are promising.
            fresh = sorted(seen, key=known.__contains__)[: width // 2]
            known.update(fresh)
            tight = sorted(seen, key=lambda mask: int.from_bytes(mask).bit_count())[: width // 2]
            beam = [seen[mask] for mask in dict.fromkeys(fresh + tight)]
        return None

    def _steps(self, state: LLMatcher) -> Iterator[list[int]]:
        """The tokens to try from a state: those that are forced, or else a few single bytes."""
        forced = state.compute_ff_tokens()
        if forced:
            yield forced
            return
        allowed = allowed_by(state, self._tokenizer.n_vocab)
        allowed[self._tokenizer.end_of_text] = False
        for kind in (self._closing, self._others):
            fit = (step for step in kind if allowed[step[0]])
            yield from islice(fit, BRANCHES)
        if not any(
            allowed[step[0]] for step in self._others
        ):  # the grammar is of tokens, not of bytes
            yield from ([token] for token in np.flatnonzero(allowed).tolist()[:BRANCHES])

    def _shortened(self, matcher: LLMatcher, path: list[int]) -> list[int]:
        """The shorter of `path` and the encoding of its text."""
        tokenizer = self._tokenizer
        try:
            anew = tokenizer.encode(tokenizer.decode_bytes(path).decode("utf-8"))
        except UnicodeDecodeError:  # it begins or ends inside a character
            return path
        return anew if len(anew) < len(path) and fits(matcher, anew) else path


def fits(matcher: LLMatcher, tokens: list[int]) -> bool:
    """Whether `tokens` complete the text."""
    after = matcher.deep_copy()
    return after.try_consume_tokens(tokens) == len(tokens) and after.is_accepting()


def allowed_by(matcher: LLMatcher, n_vocab: int) -> Flags:  # [n_vocab]
    """Which tokens may come next, as bool [n_vocab]."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(bits, count=n_vocab, bitorder="little").view(np.bool_)


@once_per_tokenizer
def _single_bytes(tokenizer: TextTokenizer) -> dict[int, int]:
    """Byte -> the token of that single byte."""
    known = ((tokenizer.token_bytes(token), token) for token in range(tokenizer.n_vocab))
    return {data[0]: token for data, token in sorted(known) if len(data) == 1}
