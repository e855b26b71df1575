"""The settings for drawing tokens, checked when they are made."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

from gpt2rt.checks import whole
from gpt2rt.errors import InvalidSetting

SEED_BITS = 64
MOST = 1e6  # of a penalty or a bias, so that float32 logits stay precise enough


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Raises `InvalidSetting` for invalid values.

    Attributes:
        temperature: the logits are divided by it; 0 takes the most likely token (greedy).
        top_k: only the k most likely tokens, and ties of the last one; 0 turns it off.
        top_p: the smallest set of most likely tokens with at least this probability together; 1
            turns it off (Holtzman et al. 2019).
        min_p: only tokens with at least this fraction of the greatest probability; 0 turns it off
            (Nguyen et al. 2024).
        typical_p: the smallest set of tokens, those nearest to the expected surprisal first, with
            at least this probability together; 1 turns it off (Meister et al. 2022).
        repetition_penalty: divides the positive logits, multiplies the negative ones, of tokens
            that the prompt or the text has; 1 turns it off (Keskar et al. 2019).
        frequency_penalty: subtracted from a token's logit for each occurrence in the new text; 0
            turns it off (OpenAI's API).
        presence_penalty: subtracted from a token's logit once it occurs in the new text; 0 turns it
            off (OpenAI's API).
        no_repeat_ngram: no sequence of n tokens is repeated, prompt included; 0 turns it off
            (Paulus et al. 2017).
        min_length: new tokens before `<|endoftext|>` or a stop token may be drawn.
        logit_bias: numbers added to the logits of tokens, which are ids or texts of one token.
        bad_words: texts whose token sequences, with and without a space before, are not generated.
        seed: 0 to 2**64 - 1, makes a run repeatable; None is a new random seed for every call.
        compat: "openai" is the top-p of OpenAI's `sample.py`: without the token that makes the sum
            exceed p (but always with the best one), and with ties of the last one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram: int = 0
    min_length: int = 0
    logit_bias: Mapping[int | str, float] | Seq[tuple[int | str, float]] = ()
    bad_words: Seq[str] = ()
    seed: int | None = None
    compat: Literal["openai"] | None = None

    def __post_init__(self) -> None:
        bias = self.logit_bias
        pairs = bias.items() if isinstance(bias, Mapping) else bias
        object.__setattr__(self, "logit_bias", _pairs(pairs))
        if not isinstance(self.bad_words, list | tuple | set | frozenset):
            raise InvalidSetting(f"bad_words must be a list of texts, not {self.bad_words!r}")
        object.__setattr__(self, "bad_words", tuple(self.bad_words))
        self._check_numbers()
        if any(not isinstance(word, str) or not word for word in self.bad_words):
            raise InvalidSetting("bad_words must not hold an empty text")
        if self.compat not in (None, "openai"):
            raise InvalidSetting(f"compat must be openai or nothing, not {self.compat!r}")

    def _check_numbers(self) -> None:
        for name in ("top_k", "no_repeat_ngram", "min_length"):
            value = getattr(self, name)
            if not whole(value) or value < 0:
                raise InvalidSetting(f"{name} must be 0 (off) or more, a whole number, not {value}")
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            if not _finite(value) or abs(value) > MOST:
                raise InvalidSetting(f"{name} must be -{MOST:g} to {MOST:g}, not {value}")
        if not _finite(self.temperature) or self.temperature < 0:
            raise InvalidSetting(f"temperature must be 0 or more, not {self.temperature}")
        penalty = self.repetition_penalty
        if not _finite(penalty) or not 1 / MOST <= penalty <= MOST:
            raise InvalidSetting(
                f"repetition_penalty must be {1 / MOST:g} to {MOST:g} (1 is off), not {penalty}"
            )
        for name in ("top_p", "typical_p"):
            value = getattr(self, name)
            if not _finite(value) or not 0 < value <= 1:
                raise InvalidSetting(f"{name} must be above 0 and at most 1, not {value}")
        if not _finite(self.min_p) or not 0 <= self.min_p <= 1:
            raise InvalidSetting(f"min_p must be 0 (off) to 1, not {self.min_p}")
        if self.seed is not None and not (whole(self.seed) and 0 <= self.seed < 1 << SEED_BITS):
            raise InvalidSetting(f"seed must be 0 to 2**{SEED_BITS} - 1, not {self.seed}")

    @property
    def biases(self) -> tuple[tuple[int | str, float], ...]:
        """`logit_bias` as pairs of a token and the number added to its logit."""
        assert isinstance(self.logit_bias, tuple)
        return self.logit_bias

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature == 0

    def seeded(self) -> SamplingParams:
        """These settings with their seed, or with a random one if they have none."""
        return self if self.seed is not None else replace(self, seed=fresh_seed())

    def with_next_seed(self) -> SamplingParams:
        """These settings with the seed after theirs; 0 follows the greatest one."""
        return replace(self, seed=((self.seed or 0) + 1) % (1 << SEED_BITS))


def _finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False


def _pairs(pairs: object) -> tuple[tuple[int | str, float], ...]:
    """The checked pairs of a logit bias. Raises `InvalidSetting`."""
    try:
        checked = tuple((token, float(bias)) for token, bias in pairs)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise InvalidSetting("logit_bias must map tokens to numbers") from None
    for token, bias in checked:
        if not (whole(token) or (isinstance(token, str) and token)):
            raise InvalidSetting(f"logit_bias names tokens by id or text, not {token!r}")
        if not (abs(bias) <= MOST or bias == -math.inf):
            raise InvalidSetting(
                f"the logit_bias of {token!r} must be -{MOST:g} to {MOST:g} or -inf, not {bias}"
            )
    if len({token for token, _ in checked}) < len(checked):
        raise InvalidSetting("logit_bias names a token twice")
    return checked


def fresh_seed() -> int:
    """A random seed below 2**32, short enough to be typed."""
    return secrets.randbits(32)
