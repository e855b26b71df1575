"""A corpus on a cluster, simulated: a reader, actors that compute, a writer.

Parts are read one after another and wait for actors; an actor computes one at a time while its
next one is on its way; results are written one after another. Where there are more actors than
cores they take turns. An actor that is killed loses its part, which another makes again, and
another starts in its place.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from gpt2rt.errors import InvalidSetting

TURNS = 20  # of a part, after each of which another actor may have the core
AHEAD = 2  # parts for each actor that wait, or that it computes

Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What computes. Times are seconds, rates are tokens a second.

    Raises `InvalidSetting` for what means nothing.

    Attributes:
        actors: how many; each computes with one core, or one GPU.
        cores: how many of those there are.
        rate: of an actor while the other cores rest.
        crowded: the speed of a core while all compute, as a share of that of one alone.
        opening: until the first actor starts: the program, joining the cluster, reading.
        start: of an actor, in seconds of its core: imports, and loading the model.
        detection: from an actor's death until another starts in its place.
        read: of the reader, for a part: reading it and handing it on.
        write: of the writer, for a part: taking in its results and writing them.
        shared: whether these two compute on the actors' cores, as on a single machine.
    """

    actors: int
    cores: int
    rate: float
    crowded: float = 1.0
    opening: float = 0.0
    start: float = 0.0
    detection: float = 0.0
    read: float = 0.0
    write: float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        if self.actors < 1 or self.cores < 1:
            raise InvalidSetting("a cluster has 1 actor and 1 core or more")
        if not (0 < self.rate < math.inf and 0 < self.crowded <= 1):
            raise InvalidSetting("rate is above 0, and crowded above 0 and at most 1")
        for name in ("opening", "start", "detection", "read", "write"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidSetting(f"{name} is seconds, 0 or more, not {getattr(self, name)}")

    def speed(self, busy: int) -> float:
        """The speed of a core while `busy` of them compute, as a share of that of one alone."""
        if self.cores == 1:
            return 1.0
        return 1 - (1 - self.crowded) * (busy - 1) / (self.cores - 1)


@dataclass(slots=True)
class Course:
    """What happened: when the last result was written, and what came of each part.

    `written` has the number of times that a part's results were written, `computed` the seconds of
    cores that computed, `kills` the number of actors that were killed.
    """

    seconds: float = 0.0
    written: dict[int, int] = field(default_factory=dict)
    computed: float = 0.0
    kills: int = 0


def simulate(cluster: Cluster, parts: Sequence[float], kills: Sequence[float] = ()) -> Course:
    """The course of a job whose parts have so many tokens; at each of `kills` an actor dies."""
    simulation = _Simulation(cluster, parts)
    simulation.env.process(simulation.kill(kills))
    simulation.env.run(until=simulation.done)
    return simulation.course


class _Simulation:
    def __init__(self, cluster: Cluster, parts: Sequence[float]) -> None:
        self.env = simpy.Environment()
        self.course = Course()
        self.done = self.env.event()
        self._cluster = cluster
        self._parts = parts
        self._cores = simpy.Resource(self.env, cluster.cores)
        self._writer = simpy.Resource(self.env, 1)
        self._room = simpy.Container(self.env, init=AHEAD * cluster.actors)
        self._waiting = simpy.Store(self.env)
        self._actors = [self.env.process(self._run(cluster.opening)) for _ in range(cluster.actors)]
        self.env.process(self._read())
        if not parts:
            self.done.succeed()

    def kill(self, times: Sequence[float]) -> Steps:
        """Kill an actor at each of these times, one after another; others take their places."""
        for time in sorted(times):
            yield self.env.timeout(max(0.0, time - self.env.now))
            place = self.course.kills % len(self._actors)
            self._actors[place].interrupt()
            self._actors[place] = self.env.process(self._run(self._cluster.detection))
            self.course.kills += 1

    def _read(self) -> Steps:
        yield self.env.timeout(self._cluster.opening)
        for number, tokens in enumerate(self._parts):
            yield self._room.get(1)
            yield from self._beside(self._cluster.read)
            yield self._waiting.put((number, tokens))

    def _run(self, delay: float) -> Steps:
        """An actor, until it is killed; its part waits for another then."""
        taken: simpy.resources.store.StoreGet | None = None
        try:
            yield self.env.timeout(delay)
            yield from self._compute(self._cluster.start)
            while True:
                taken = self._waiting.get()
                number, tokens = yield taken
                yield from self._compute(tokens / self._cluster.rate)
                taken = None
                self.env.process(self._write(number))
        except simpy.Interrupt:
            if taken is not None and taken.triggered:
                yield self._waiting.put(taken.value)
            elif taken is not None:
                taken.cancel()  # it waits no more

    def _compute(self, seconds: float) -> Steps:
        """So many seconds of a core, in turns."""
        for _ in range(TURNS if seconds else 0):
            with self._cores.request() as core:
                yield core
                took = seconds / TURNS / self._cluster.speed(self._cores.count)
                yield self.env.timeout(took)
                self.course.computed += took

    def _beside(self, seconds: float) -> Steps:
        """Work of the reader or the writer."""
        if self._cluster.shared:
            yield from self._compute(seconds)
        else:
            yield self.env.timeout(seconds)

    def _write(self, number: int) -> Steps:
        with self._writer.request() as turn:
            yield turn
            yield from self._beside(self._cluster.write)
        course = self.course
        course.written[number] = course.written.get(number, 0) + 1
        course.seconds = self.env.now
        yield self._room.put(1)
        if len(course.written) == len(self._parts):
            self.done.succeed()
