"""Chooses the provider that `auto` takes for a bundle: the fastest whose logits are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.chosen import Preference, machine, remember
from gpt2rt.engine.provider_table import TABLE
from gpt2rt.engine.providers import CPU, Threads
from gpt2rt.engine.runtime import Runtime
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.errors import Gpt2rtError
from gpt2rt_bench.cases import ALL
from gpt2rt_bench.report import ReportRow
from gpt2rt_bench.run import Plan, planned, run
from gpt2rt_export.verify.agreement import agreement_of, statistics
from gpt2rt_export.verify.gates import GATES

PROMPT, STEPS = 64, 32  # tokens of the case; half of a context that is shorter


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was measured and chosen; `left_out` says why other providers were not measured."""

    choice: Preference
    rows: Sequence[ReportRow]
    left_out: Sequence[str]


def plan_of(model: str, threads: int | None = None) -> Plan:
    """One case of a bundle on every provider that this machine can run."""
    half = library.find(model).manifest.hparams.n_ctx // 2
    return planned(
        [model],
        providers=[ALL],
        prompts=[min(PROMPT, half)],
        steps=min(STEPS, half),
        threads=[] if threads is None else [threads],
        every=tuple(TABLE),
    )


def choose(
    plan: Plan, rounds: int = 3, advance: Callable[[str], None] = lambda what: None
) -> Chosen:
    """Measure a plan of `plan_of`, and remember the fastest provider for the bundle.

    A provider counts if its logits are as close to the CPU's as the bundle's precision has to be to
    the checkpoint. `advance` is called with the title of each step: once a provider, and by `run`.
    Raises `OSError` if the home directory cannot be written.
    """
    (bundle,) = plan.bundles.values()
    left_out, right = [*plan.left_out], {}
    for configuration, provider in plan.providers.items():
        advance(f"Verify {provider}")
        if why := wrong(bundle, provider):
            left_out.append(f"{provider}: {why}")
        else:
            right[configuration] = provider
    cases = [case for case in plan.cases if case.configuration in right]
    rows = run(replace(plan, cases=cases), rounds, advance)
    steps = {right[row.result.case.configuration]: row.summary.step_ms.median for row in rows}
    choice = Preference(min(steps, key=lambda name: steps[name]), steps, machine())
    remember(bundle, choice)
    return Chosen(choice, rows, left_out)


def wrong(bundle: Bundle, provider: str) -> str | None:
    """Why a provider does not count: its logits are far from the CPU's, or it fails."""
    if provider == CPU:
        return None
    try:
        found = logits(bundle, provider)
    except Gpt2rtError as error:
        return str(error)
    wanted, gate = logits(bundle, CPU), GATES[bundle.manifest.precision]
    apart = agreement_of(statistics(wanted, found, [0] * len(wanted)))
    for what, value, limit in (
        ("deviations", apart.relative, gate.largest),
        ("nats of tempered divergence", apart.tempered, gate.tempered),
    ):
        if not value <= limit:  # written so that a NaN fails
            return f"its logits are {value:.3g} {what} from the CPU's, {limit:g} are allowed"
    return None


def logits(bundle: Bundle, provider: str) -> Logits:
    """The logits after each of some random tokens, half read in one call, the rest one by one."""
    hparams = bundle.manifest.hparams
    count = min(PROMPT, hparams.n_ctx)
    tokens = np.random.default_rng(0).integers(0, hparams.n_vocab, count).tolist()
    slots = Runtime(bundle, Threads(), provider).slots(1)
    found = [np.array(slots.step([Part(0, 0, tokens[: count // 2], count // 2)]))]
    for at in range(count // 2, count):
        found.append(np.array(slots.step([Part(0, at, [tokens[at]])])))
    return np.concatenate(found)
