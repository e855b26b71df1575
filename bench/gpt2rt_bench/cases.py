"""The cases of a benchmark: a configuration, a prompt length and a batch size each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.plugins import SEPARATOR
from gpt2rt.engine.provider_table import TABLE
from gpt2rt.engine.providers import AUTO
from gpt2rt.errors import InvalidSetting
from gpt2rt_bench.protocol import Tokens

OURS = "gpt2rt"
ALL = "all"  # those of `EVERY` that this machine can run
WEB = "web"  # the page for the browser, in Chromium
EVERY = (*TABLE, WEB)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A model in a library on a provider with a number of threads; each has its own process."""

    model: str
    provider: str
    threads: int
    library: str = OURS

    @property
    def name(self) -> str:
        """Its name in messages."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.model} ({self.library}, {self.provider}, {threads})"


@dataclass(frozen=True, slots=True)
class Case:
    """`batch` prompts of `prompt` tokens, then `steps` tokens after each: one by the prefill, the
    others step by step.
    """

    configuration: Configuration
    prompt: int
    batch: int
    steps: int

    @property
    def positions(self) -> int:
        """Positions of keys and values at the end; the last token is not fed back."""
        return self.prompt + self.steps - 1

    @property
    def past(self) -> float:
        """Positions that a decode step attends to, its own included, in the mean of all steps."""
        return self.prompt + self.steps / 2

    def fits(self, hparams: HParams) -> bool:
        """Whether the model's context holds it."""
        return self.positions <= hparams.n_ctx

    def prompts(self, n_vocab: int) -> list[Tokens]:
        """Random prompts [batch, prompt], the same for every configuration."""
        rng = np.random.default_rng(0)
        found: list[Tokens] = rng.integers(0, n_vocab, (self.batch, self.prompt)).tolist()
        return found


def configurations(
    models: Sequence[str],
    providers: Sequence[str],
    threads: Sequence[int],
    every: Sequence[str] = EVERY,
) -> list[Configuration]:
    """Every combination, each once; `all` stands for `every` provider.

    Raises `InvalidSetting` for a provider that there is not.
    """
    known = (*EVERY, ALL, AUTO)
    for provider in providers:
        if provider.partition(SEPARATOR)[0] not in known:
            raise InvalidSetting(f"provider is one of {', '.join(known)}, not {provider!r:.60}")
    providers = every if ALL in providers else providers
    found = [Configuration(m, p, t) for t, p, m in product(threads, providers, models)]
    return list(dict.fromkeys(found))


def matrix(
    subjects: Sequence[Configuration], prompts: Sequence[int], batches: Sequence[int], steps: int
) -> list[Case]:
    """Every combination, each once; those of the same prompt and batch follow each other.

    Raises `InvalidSetting` for numbers out of range.
    """
    for what, values in (("prompt", prompts), ("batch", batches)):
        if low := [value for value in values if value < 1]:
            raise InvalidSetting(f"{what} must be 1 or more, not {low[0]}")
    if steps < 2:
        raise InvalidSetting(f"steps must be 2 or more, so that one is decoded, not {steps}")
    found = [
        Case(s, p, b, steps) for p, b, s in product(sorted(prompts), sorted(batches), subjects)
    ]
    return list(dict.fromkeys(found))


def with_others(
    ours: Sequence[Case], others: Sequence[Configuration], providers: Mapping[Configuration, str]
) -> list[Case]:
    """Each case, followed by the same case in the other libraries that have its model.

    `providers` are those that run the configurations of `ours`.
    """

    def beside(case: Case) -> Iterator[Case]:
        own = case.configuration
        for other in others:
            same = (other.model, other.threads) == (own.model, own.threads)
            if same and other.provider == providers[own]:
                yield replace(case, configuration=other)

    return list(dict.fromkeys(each for case in ours for each in (case, *beside(case))))
