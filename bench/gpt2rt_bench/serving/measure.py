"""The measurement: servers and the library in turn, round after round, on the same requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

from gpt2rt import GPT2, Request, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import InvalidSetting
from gpt2rt_bench.serving.load import TEXTS, Load, LoadRound, run_clients, streamed
from gpt2rt_bench.serving.process import ServerProcess, own_seconds
from gpt2rt_bench.serving.streams import StreamedText

OURS = "gpt2rt serve"
ALONE = 4  # texts of a single client in a round
RESTARTS = 3
UNDER_LOAD = 0.5  # seconds of load before a server is killed
PAUSE = 0.2  # seconds; long enough for the threads of the one before to stop spinning
KINDS = 3  # of load: all clients, with long prompts, a single client


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What is measured: `gpt2rt serve` of a model, beside the servers at `urls`.

    `clients` stream at a time, each `steps` tokens after a prompt; `long_every` are the seconds
    from one long prompt to the next. Raises `InvalidSetting` for what means nothing.
    """

    bundle: Bundle
    urls: Sequence[str] = ()
    clients: int = 32
    long_every: float = 1.0
    steps: int = 64
    rounds: int = 7
    threads: int | None = None
    provider: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("clients", "rounds"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0 < self.long_every < 1e6:
            raise InvalidSetting(f"--long-every must be seconds above 0, not {self.long_every}")
        for url in self.urls:
            if not url.startswith("http://"):
                raise InvalidSetting(f"--url must begin with http://, not {url!r:.100}")
        self.load(0)

    @property
    def options(self) -> list[str]:
        """The options of `gpt2rt serve`."""
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        return [*threads, "--provider", self.provider, "--slots", str(self.clients)]

    def load(self, number: int) -> Load:
        """The requests of a round; no two rounds have a prompt in common."""
        hparams = self.bundle.manifest.hparams
        return Load.drawn(hparams, self.clients * TEXTS, self.steps, number)

    @property
    def advances(self) -> int:
        """How often `measure` calls `advance`."""
        return (self.rounds + 1) * (2 + KINDS * (1 + len(self.urls))) + RESTARTS


@dataclass(slots=True)
class ServerResult:
    """The rounds of a server.

    `plain`: all clients; `beside_long`: with long prompts in between; `alone`: the texts of one
    client; `own`: CPU seconds that the server took for itself in each plain round, where known;
    `starts`: seconds until it was ready, after it was killed.
    """

    name: str
    plain: list[LoadRound] = field(default_factory=list)
    beside_long: list[LoadRound] = field(default_factory=list)
    alone: list[LoadRound] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)


@dataclass(slots=True)
class LibraryResult:
    """The rounds of the library: tokens a second of `generate_batch`, ms a token of `stream`."""

    tokens_per_second: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)


@dataclass(slots=True)
class ServingResult:
    """What was measured: ours first among the servers."""

    plan: ServingPlan
    servers: list[ServerResult]
    library: LibraryResult

    @classmethod
    def empty(cls, plan: ServingPlan, names: Sequence[str]) -> ServingResult:
        """Nothing yet."""
        return cls(plan, [ServerResult(name) for name in names], LibraryResult())


def measure(plan: ServingPlan, advance: Callable[[str], None] = lambda what: None) -> ServingResult:
    """Measure `plan.rounds` rounds, after one that is not counted.

    The library and the servers come in turn, in every other round the other way round. At last our
    server is killed under load and started again, `RESTARTS` times. `advance` is called with what
    begins. Raises `SubjectFailed`, and what loading the model raises.
    """
    place = plan.bundle.directory
    model = GPT2.load(place, threads=plan.threads, provider=plan.provider)
    with model, ServerProcess(place, plan.options) as ours:
        places = {OURS: ours.url, **dict(zip(plan.urls, plan.urls, strict=True))}
        warm_up, found = (ServingResult.empty(plan, list(places)) for _ in range(2))
        for number in range(plan.rounds + 1):
            title = f"Round {number} of {plan.rounds}" if number else "Warm up"
            parts = list(_parts(model, places, found if number else warm_up, number))
            for part in parts if number % 2 else reversed(parts):
                advance(title)
                time.sleep(PAUSE)
                part()
    for _ in range(RESTARTS):
        advance("Kill")
        found.servers[0].starts.append(_start_after_kill(plan))
    return found


def _parts(
    model: GPT2, places: Mapping[str, str], found: ServingResult, number: int
) -> Iterator[Callable[[], None]]:
    """What is done in a round: each kind with requests of its own, the same for all."""
    plan, library = found.plan, found.library
    all_clients, long, alone = (plan.load(KINDS * number + kind) for kind in range(KINDS))
    alone = replace(alone, prompts=alone.prompts[:ALONE])
    yield lambda: library.tokens_per_second.append(_batch(model, all_clients, plan.clients))
    for server in found.servers:
        yield partial(_plain, server, places[server.name], all_clients, plan.clients)
    for server in found.servers:
        yield partial(_beside_long, server, places[server.name], long, plan)
    for server in found.servers:
        yield partial(_alone, server, places[server.name], alone)
    yield lambda: library.token_ms.append(_stream(model, alone))


def _plain(server: ServerResult, url: str, load: Load, clients: int) -> None:
    before = own_seconds(url)
    server.plain.append(run_clients(url, load, clients))
    after = own_seconds(url)
    if before is not None and after is not None:
        server.own.append(after - before)


def _beside_long(server: ServerResult, url: str, load: Load, plan: ServingPlan) -> None:
    server.beside_long.append(run_clients(url, load, plan.clients, plan.long_every))


def _alone(server: ServerResult, url: str, load: Load) -> None:
    server.alone.append(run_clients(url, load, 1))


def _batch(model: GPT2, load: Load, clients: int) -> float:
    """Tokens a second of `generate_batch`."""
    began = time.perf_counter()
    done = model.generate_batch(
        load.prompts, SamplingParams(seed=load.seed), Stopping(load.steps), batch_size=clients
    )
    tokens = sum(len(one.tokens) for one in done)
    return tokens / (time.perf_counter() - began)


def _stream(model: GPT2, load: Load) -> float:
    """Milliseconds a token of the texts that a single client asks for."""
    found = []
    for body in load.bodies():
        began, tokens, arrivals = time.perf_counter(), 0, []
        params = SamplingParams(seed=body["seed"])
        for piece in model.run([Request(body["prompt"], params, Stopping(load.steps))]):
            tokens += piece.token is not None
            arrivals.append(time.perf_counter())
        found.append(StreamedText(began, arrivals, tokens).token_ms)
    return median(found)


def _start_after_kill(plan: ServingPlan) -> float:
    """Seconds until a server is ready, after another was killed in the middle of its load."""
    with ServerProcess(plan.bundle.directory, plan.options) as killed:

        async def interrupted() -> None:
            load = plan.load(0)
            clients = asyncio.create_task(streamed(killed.url, load, plan.clients))
            await asyncio.sleep(UNDER_LOAD)
            await asyncio.to_thread(killed.kill)
            with suppress(ExceptionGroup):
                await clients

        asyncio.run(interrupted())
    with ServerProcess(plan.bundle.directory, plan.options) as again:
        return again.start_seconds
