"""Penalties, biases and bans: changes of logits that depend on tokens, mostly on earlier ones.

The rules are pure functions over the logits of the tokens concerned. A `History` counts the tokens
of a sequence, so that the time of a step grows with the text's different tokens, not with the
vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import InvalidSetting
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.sampling.selection import Changes
from gpt2rt.text.tokenizers import TextTokenizer

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Edits:
    """The settings of `SamplingParams` about particular tokens, as ids.

    bias: pairs of an id and a number that is added to its logit.
    words: token sequences that must not be generated.
    stop_ids: ids that may not be drawn before `min_length` new tokens.
    """

    bias: tuple[tuple[int, float], ...] = ()
    words: tuple[tuple[int, ...], ...] = ()
    stop_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, params: SamplingParams, tokenizer: TextTokenizer, stop_ids: Iterable[int]) -> Edits:
        """The edits of `params` in the tokens of a tokenizer.

        Raises `InvalidSetting` for ids outside the vocabulary, and for texts of `logit_bias` that
        are not a single token.
        """
        bias = tuple((_one_token(token, tokenizer), value) for token, value in params.biases)
        if len({token for token, _ in bias}) < len(bias):
            raise InvalidSetting(
                "logit_bias names a token twice, by its id and by its text", "logit_bias"
            )
        words = {
            tuple(tokenizer.encode(start + word))
            for word in params.bad_words
            for start in ("", " ")
        }
        return cls(bias, tuple(sorted(words)), tuple(sorted(stop_ids)))


def _one_token(token: int | str, tokenizer: TextTokenizer) -> int:
    if isinstance(token, str):
        tokens = tokenizer.encode(token)
        if len(tokens) != 1:
            raise InvalidSetting(
                f"logit_bias: {token!r} is {len(tokens)} tokens ({tokens}); name them by id",
                "logit_bias",
            )
        return tokens[0]
    if not 0 <= token < tokenizer.n_vocab:
        raise InvalidSetting(
            f"logit_bias: {token} is no token; ids go to {tokenizer.n_vocab - 1}", "logit_bias"
        )
    return token


def repetition(logits: Floats, penalty: float) -> Floats:  # of tokens seen [n] -> [n]
    """The repetition penalty of CTRL (Keskar et al. 2019), as in Transformers."""
    factor = np.float32(penalty)
    return np.where(logits > 0, logits / factor, logits * factor).astype(np.float32, copy=False)


def frequency(logits: Floats, counts: Floats, each: float, once: float) -> Floats:  # [n] -> [n]
    """Subtract `each` times the count, and `once` if the count is above 0 (OpenAI's API)."""
    off = counts * np.float32(each) + (counts > 0) * np.float32(once)
    return logits - off.astype(np.float32, copy=False)


class History:
    """The tokens of one sequence so far, with the penalties and bans that follow from them."""

    def __init__(self, params: SamplingParams, edits: Edits, prompt: Seq[int]) -> None:
        self._params = params
        self._edits = edits
        self._penalised = (
            params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty
        )
        self._bias_ids = np.array([token for token, _ in edits.bias], np.int64)
        self._bias = np.array([value for _, value in edits.bias], np.float32)
        self._stop_ids = np.array(edits.stop_ids, np.int64)
        self.edits = bool(
            self._penalised
            or params.no_repeat_ngram
            or edits.bias
            or edits.words
            or (params.min_length and edits.stop_ids)
        )
        self._new = 0
        self._tokens: list[int] = []
        self._place: dict[int, int] = {}  # token -> its index in the two arrays
        self._ids = np.empty(64, np.int64)
        self._counts = np.empty(64, np.float32)  # occurrences after the prompt
        self._after: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        if self.edits:
            for token in prompt:
                self._note(token, 0)

    def take(self, token: int) -> None:
        """Add a token that was drawn."""
        self._new += 1
        if self.edits:
            self._note(token, 1)

    def _note(self, token: int, count: int) -> None:
        place = self._place.get(token)
        if place is None:
            place = self._place[token] = len(self._place)
            if place == len(self._ids):
                self._ids = np.resize(self._ids, 2 * place)
                self._counts = np.resize(self._counts, 2 * place)
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += count
        self._tokens.append(token)
        if n := self._params.no_repeat_ngram:
            gram = tuple(self._tokens[-n:])
            if len(gram) == n:
                self._after[gram[:-1]].add(token)

    def edit(self, logits: Floats) -> Floats:  # [n_vocab], changed in place
        """Apply biases, penalties and bans to `logits`, and return them."""
        if len(self._bias):
            logits[self._bias_ids] += self._bias
        if self._penalised:
            ids = self._ids[: len(self._place)]
            seen = logits[ids]
            if self._params.repetition_penalty != 1:
                seen = repetition(seen, self._params.repetition_penalty)
            each, once = self._params.frequency_penalty, self._params.presence_penalty
            if each or once:
                seen = frequency(seen, self._counts[: len(ids)], each, once)
            logits[ids] = seen
        if banned := self._banned():
            logits[list(banned)] = -np.inf
        if self._new < self._params.min_length:
            logits[self._stop_ids] = -np.inf
        return logits

    def changes(self) -> Changes:
        """What `edit` does, for a device."""
        params, known = self._params, self._place if self._penalised else {}
        out = [*self._banned(), *(self._edits.stop_ids if self._new < params.min_length else ())]
        biased = [token for token, _ in self._edits.bias]
        others = [token for token in dict.fromkeys([*biased, *out]) if token not in known]
        seen = len(known)
        places = {**known, **dict(zip(others, count(seen), strict=False))} if others else known
        bias, factor, off = np.zeros((3, len(places)), np.float32)
        bias[[places[token] for token in biased]] = self._bias
        factor[:seen], factor[seen:] = params.repetition_penalty, 1
        each, once = params.frequency_penalty, params.presence_penalty
        if each or once:
            off[:seen] = -frequency(off[:seen], self._counts[:seen], each, once)
        off[[places[token] for token in out]] = np.inf
        ids = np.concatenate([self._ids[:seen], np.array(others, np.int64)])
        return Changes(ids, bias, factor, off)

    def _banned(self) -> set[int]:
        """Tokens that would repeat an n-gram or complete a bad word."""
        banned: set[int] = set()
        if n := self._params.no_repeat_ngram:
            banned |= self._after.get(tuple(self._tokens[len(self._tokens) - n + 1 :]), set())
        for *start, last in self._edits.words:
            if self._tokens[len(self._tokens) - len(start) :] == start:
                banned.add(last)
        return banned
