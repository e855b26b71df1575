"""Runs a benchmark from Python: plan its cases, add other libraries, measure.

    plan = planned(["117M-fp32", "117M-int8"], prompts=[64, 512])
    for row in run(plan, rounds=7):
        print(row.record())

`gpt2rt bench` does the same; it only reads options and prints the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine import providers as engine_providers
from gpt2rt.engine.execution import resolve
from gpt2rt.engine.providers import Threads
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing, missing_extra
from gpt2rt.kernels.library import has_kernels
from gpt2rt_bench import browser, cases, latency, worker
from gpt2rt_bench.cases import EVERY, WEB, Case, Configuration
from gpt2rt_bench.latency import CaseResult
from gpt2rt_bench.machine.bandwidth import Meters
from gpt2rt_bench.report import ReportRow, rows_of
from gpt2rt_bench.subject import Subject
from gpt2rt_bench.traffic import Traffic, traffic

if TYPE_CHECKING:  # it needs the extra `export`
    from gpt2rt_bench.peers import PeerSubject


@dataclass(frozen=True, slots=True)
class Plan:
    """The cases of a benchmark, checked before any model is loaded.

    `bundles`: the models by their names; `cases`: in the order of measurement; `providers`: which
    one runs each of gpt2rt's configurations; `peers`: the other library of each of the other
    configurations; `left_out`: a sentence for each model's cases that exceed its context, and for
    each provider that cannot be had.
    """

    bundles: Mapping[str, Bundle]
    cases: Sequence[Case]
    providers: Mapping[Configuration, str]
    left_out: Sequence[str] = ()
    peers: Mapping[Configuration, PeerSubject] = field(default_factory=dict)

    def with_peers(self, subjects: Sequence[PeerSubject]) -> Plan:
        """The plan with each case again for every other library that has its model and provider."""
        threads = dict.fromkeys(case.configuration.threads for case in self.cases)
        peers = {
            Configuration(name, subject.provider, count, subject.name): subject
            for count in threads
            for name, bundle in self.bundles.items()
            for subject in subjects
            if subject.bundle == bundle
        }
        return replace(
            self, cases=cases.with_others(self.cases, list(peers), self.providers), peers=peers
        )

    def advances(self, rounds: int) -> int:
        """How often `run` calls `advance`: once a model loaded, once a case and round."""
        return len({case.configuration for case in self.cases}) + len(self.cases) * (rounds + 1)


def planned(
    models: Sequence[str],
    *,
    providers: Sequence[str] = ("cpu",),
    prompts: Sequence[int] = (64,),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (),
    steps: int = 64,
    every: Sequence[str] = EVERY,
) -> Plan:
    """Plan every combination of the settings for the bundles `models`, by name or directory.

    `providers`: as users write them, or `all`: those of `every` that can be had; `prompts`: tokens;
    `threads` empty: the physical cores; `steps`: tokens after each prompt. Raises `UnknownModel`,
    `BadBundle`, `ProviderMissing`, and `InvalidSetting` for settings out of range or where no
    model's context holds a case.
    """
    counts = [Threads(count).count or 1 for count in threads]
    counts = counts or [engine_providers.physical_cores()]
    configurations = cases.configurations(models, providers, counts, every)
    bundles, together = {name: library.find(name) for name in models}, cases.ALL in providers
    chosen: dict[Configuration, str] = {}
    missing: dict[str, None] = {}  # ordered, each once
    for own in configurations:
        try:
            chosen[own] = _provider_of(bundles[own.model], own.provider, named=not together)
        except (ProviderMissing, BadBundle, InvalidSetting) as error:
            if not together:
                raise
            missing[f"{own.model} on {own.provider} ({error})"] = None
    matrix = cases.matrix([*chosen], prompts, batches, steps)
    fitting, left_out = _fitting(_distinct(matrix, chosen), bundles)
    return Plan(bundles, fitting, chosen, (*missing, *left_out))


def run(
    plan: Plan, rounds: int = 7, advance: Callable[[str], None] = lambda what: None
) -> list[ReportRow]:
    """Measure every case of a plan, in `rounds` interleaved rounds after one that is not counted.

    `advance` is called with a title as each model begins to load and each case to run
    (`Plan.advances`). Raises `SubjectFailed` where a model's process fails, `InvalidSetting` for
    less than one round.
    """
    if rounds < 1:
        raise InvalidSetting(f"rounds must be 1 or more, not {rounds}")
    meters = Meters()

    def start(configuration: Configuration) -> Subject:
        if configuration in plan.peers:
            command = plan.peers[configuration].worker(configuration.threads)
        elif configuration.provider == WEB:
            directory = plan.bundles[configuration.model].directory
            command = browser.command(directory, configuration)
        else:
            command = worker.command(plan.bundles[configuration.model].directory, configuration)
        return Subject(configuration.name, command)

    def traffic_of(result: CaseResult) -> Traffic | None:
        configuration = result.case.configuration
        if plan.providers.get(configuration, WEB) == WEB:
            return None  # what another library reads is not known
        if plan.providers[configuration] not in engine_providers.PROVIDERS:
            return None  # nor what other providers make of the weights
        bundle = plan.bundles[configuration.model]
        graph = engine_providers.graph_of(bundle, plan.providers[configuration])
        if has_kernels(graph) and not result.subject.ready.kernels:
            return None  # nor is what the bodies of the functions read
        return traffic(bundle, graph.name)

    results = latency.measure(
        plan.cases,
        start,
        {name: bundle.manifest.hparams.n_vocab for name, bundle in plan.bundles.items()},
        rounds,
        every_round=meters.read,
        advance=advance,
    )
    return rows_of(results, traffic_of, meters)


def _provider_of(bundle: Bundle, provider: str, *, named: bool) -> str:
    """What runs a bundle; for one that the user has not `named` nothing is fetched.

    Raises `ProviderMissing`, `BadBundle`, `InvalidSetting`.
    """
    if provider != WEB:
        return resolve(bundle, provider)
    try:
        from gpt2rt_export.web import graph, site
    except ImportError as error:
        missing = missing_extra("web", f"the page for the browser needs {error.name}")
        raise ProviderMissing(str(missing)) from None
    site.check(bundle)
    if not named and graph.WASM not in graph.devices(bundle):
        raise ProviderMissing("the page needs a GPU for it, and --provider web tries that")
    browser.check(fetch=named)
    return WEB


def _distinct(matrix: Sequence[Case], providers: Mapping[Configuration, str]) -> list[Case]:
    """The cases without those that `auto` makes equal to another."""
    found = {
        replace(case, configuration=replace(own, provider=providers[own])): case
        for case in reversed(matrix)
        for own in [case.configuration]
    }
    return list(reversed(found.values()))


def _fitting(
    matrix: Sequence[Case], bundles: Mapping[str, Bundle]
) -> tuple[list[Case], tuple[str, ...]]:
    """The cases that their models' contexts hold, and a sentence for each of the others.

    Raises `InvalidSetting` where none is left.
    """
    fitting: list[Case] = []
    left_out: dict[str, None] = {}  # ordered, each once
    for case in matrix:
        model = case.configuration.model
        hparams = bundles[model].manifest.hparams
        if case.batch > 1 and case.configuration.provider == WEB:
            left_out[f"{case.batch} prompts side by side on {WEB}: a page has one text"] = None
        elif case.fits(hparams):
            fitting.append(case)
        else:
            reason = f"{case.prompt} prompt tokens and {case.steps} steps exceed the context of "
            left_out[f"{reason}{model}, {hparams.n_ctx}"] = None
    if not fitting:
        raise InvalidSetting(f"nothing can be measured: {next(iter(left_out))}; choose fewer")
    return fitting, tuple(left_out)
