"""The parts of a job made by a cluster: Ray Data, with a pool of actors that each hold the model.

A task on the node of this program reads the corpus. An actor makes all that is in the files of a
part, and this program writes them: nodes need no common disk, and an actor that dies, or that the
cluster only believes to be dead, leaves nothing behind. Ray gives its part to another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from gpt2rt import cluster
from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.corpus import nodes
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.jobs import Job
from gpt2rt.corpus.layout import DonePart, EncodedPart, Layout
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.local import finished
from gpt2rt.corpus.names import STDIN
from gpt2rt.corpus.part import CorpusPart, cut
from gpt2rt.corpus.remaining import Remaining
from gpt2rt.corpus.streams import BytesRead
from gpt2rt.engine.providers import AUTO, CPU, CUDA, better_on_cpu, physical_cores
from gpt2rt.errors import ClusterFailure, Gpt2rtError, InvalidSetting
from gpt2rt.generation.speculation import LOOKUP

AT_ONCE = 2  # parts in an actor, so that its batch does not run empty at the end of one
TRIES = 10  # deaths of workers that a part may meet; more is its own doing
AHEAD = 64 << 20  # bytes of parts and results on their way, for each actor
COLUMN = "value"  # of the data set: a row is a pickled part, or what came of one


@dataclass(frozen=True, slots=True)
class ReadParts:
    """What the reader is told: the corpus, and what of it is to be done."""

    corpus: Corpus
    part_rows: int
    together: bool
    remaining: Remaining
    directory: str  # where relative paths begin

    def parts(self) -> Iterator[tuple[CorpusPart, int]]:
        """The parts, with the bytes of the files that were read up to the end of each."""
        meter = BytesRead()
        with contextlib.chdir(self.directory):
            rows = self.corpus.rows(meter)
            for part in self.remaining.of(cut(rows, self.part_rows, together=self.together)):
                yield part, meter.count


@dataclass(frozen=True, slots=True)
class PartWork:
    """What an actor is told: the job, where it finds the bundle, how parts look."""

    job: Job
    place: str
    digest: str
    loading: Loading
    layout: Layout


class PartActor:
    """Makes the files of parts, with a model that is loaded once."""

    def __init__(self, work: PartWork) -> None:
        self._work = work
        self._model: Any = None
        self._loading = threading.Lock()

    def __call__(self, table: Any) -> Any:
        """A row of the reader's to one of what came of it."""
        ((part, read),) = unpacked(table)
        if isinstance(part, Gpt2rtError):  # of the reader
            return table
        try:
            (done,) = finished(self._work.job, self._loaded(), [part])
            return packed((self._work.layout.encode(done.part, done.results), read))
        except Gpt2rtError as error:
            return packed(error)

    def _loaded(self) -> Any:
        work = self._work
        with self._loading:
            if self._model is None:
                bundle = nodes.opened(work.place, work.digest)
                self._model = work.job.load(bundle, work.loading)
            return self._model


def packed(value: object) -> Any:
    """A value as a table of Arrow's, of one row."""
    import pyarrow as pa

    row = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return pa.table({COLUMN: pa.array([row], pa.large_binary())})


def unpacked(table: Any) -> Iterator[Any]:
    """The values of tables that `packed` made."""
    for row in table.column(COLUMN):
        yield pickle.loads(row.as_py())


def joined(address: str) -> AbstractContextManager[None]:
    """A context in which `made` works on the cluster at `address`; see `gpt2rt.cluster.joined`."""
    return cluster.joined(address, cpus=physical_cores())


def made(
    job: Job,
    model: str | None,
    bundle: Bundle,
    corpus: Corpus,
    part_rows: int,
    remaining: Remaining,
    layout: Layout,
    loading: Loading,
    *,
    actors: int | None = None,
    meter: BytesRead,
    advance: Callable[[int], None] = lambda rows: None,
) -> Iterator[DonePart]:
    """Have the cluster that was joined make the parts of a job, each returned when it is in place.

    `bundle` is what `model` names here; nodes find it by `nodes.place`. There are as many actors as
    the cluster has processors for, `loading.threads` (None: 1) for each, or a GPU; `actors` at
    most. `advance` is called with the rows done since its last call, `meter` has the bytes read
    for them.

    Raises `ClusterFailure` for a cluster that breaks, and for nodes where gpt2rt or the bundle is
    another or missing; what `Job.results` raises, and `Remaining.of`, `Layout.put`,
    `Corpus.rows`. What was returned before is in place.
    """
    loading = shared(loading, bundle)
    place = nodes.place(model, bundle)
    nodes.check(place, bundle.digest, gpu=loading.provider == CUDA)
    read = ReadParts(corpus, part_rows, job.together, remaining, os.getcwd())
    work = PartWork(job, place, bundle.digest, loading, layout)
    for encoded, bytes_read in _results(read, work, actors):
        part = layout.put(encoded)
        meter.count = max(meter.count, bytes_read)
        advance(part.rows)
        yield part


def check_corpus(corpus: Corpus) -> None:
    """Raises `InvalidSetting` for a corpus that a task of a cluster cannot read."""
    if any(file.path == STDIN for file in corpus.files):
        raise InvalidSetting("standard input cannot be read by a cluster; write it to a file first")


def shared(loading: Loading, bundle: Bundle) -> Loading:
    """How every actor loads the model: with one kind of processor, whichever node it is on."""
    import ray

    gpu = ray.cluster_resources().get("GPU", 0) >= 1 and better_on_cpu(bundle) is None
    provider = (CUDA if gpu else CPU) if loading.provider == AUTO else loading.provider
    draft = loading.draft
    if draft not in (None, LOOKUP):
        draft = nodes.place(draft, library.find(draft))
    return replace(loading, threads=loading.threads or 1, provider=provider, draft=draft)


def _results(
    read: ReadParts, work: PartWork, actors: int | None
) -> Iterator[tuple[EncodedPart, int]]:
    """What came of the parts, in any order, with the bytes read up to the end of each.

    Where a file cannot be read, what was read before is done first.
    """
    import ray

    found = _dataset(read, work, actors)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its files in Ray's folder have all
    failed: list[Gpt2rtError] = []
    try:
        for table in found.iter_batches(
            batch_size=None, prefetch_batches=0, batch_format="pyarrow"
        ):
            for value in unpacked(table):
                if isinstance(value, Gpt2rtError):
                    raise value
                if isinstance(value[0], Gpt2rtError):
                    failed.append(value[0])
                else:
                    yield value
    except ray.exceptions.RayError as error:
        raise ClusterFailure(_told(error)) from error
    for fault in failed:
        raise fault


def _told(error: Exception) -> str:
    """An error of Ray's in a line."""
    from ray import exceptions

    killers = exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, killers):
        told = f"workers died again and again at a part, or their nodes ({lines[0][:200]})"
    else:
        told = f"the cluster failed ({lines[-1][:200]})"
    return f"{told}; what was done is kept"


def _dataset(read: ReadParts, work: PartWork, actors: int | None) -> Any:
    """The data set whose rows are what came of the parts."""
    import ray
    from ray.data import ActorPoolStrategy
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    gpu = work.loading.provider == CUDA
    each = {"num_gpus": 1} if gpu else {"num_cpus": work.loading.threads}
    room = _room(each)
    count = room if actors is None else min(actors, room)
    here = On(ray.get_runtime_context().get_node_id(), soft=False)
    source = _source(read)
    rows = ray.data.read_datasource(
        source, override_num_blocks=1, num_cpus=0, scheduling_strategy=here
    )
    _settle(rows.context, count)
    # There is no other way yet to name how often a task is tried again; without, it is for ever.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    return rows.map_batches(
        PartActor,
        fn_constructor_args=(work,),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=1,
            initial_size=count,
            max_size=actors,
            max_tasks_in_flight_per_actor=AT_ONCE,
            max_concurrent_calls_per_actor=AT_ONCE,
            enable_true_multi_threading=True,
        ),
        max_task_retries=TRIES,
        **each,
    )


def _room(each: dict[str, Any]) -> int:
    """How many actors the nodes have room for, one of which takes `each`.

    Raises `InvalidSetting` where there is none.
    """
    import ray

    ((name, wanted),) = each.items()
    kind = {"num_gpus": "GPU", "num_cpus": "CPU"}[name]
    held = [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
    room = sum(int(count // wanted) for count in held)
    if not room:
        raise InvalidSetting(
            f"no node has {wanted} {kind}s: the most is {max(held, default=0):g}; --threads sets "
            "how many an actor takes"
        )
    return room


def _settle(context: Any, actors: int) -> None:
    """Settings of Ray Data for this job."""
    from ray.data import ExecutionResources

    context.target_max_block_size = 1  # a row is a part, and is not put together with others
    context.enable_progress_bars = False
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # all are at work
    context.execution_no_progress_timeout_s = -1  # a part takes as long as it takes
    limits = ExecutionResources(object_store_memory=AHEAD * (actors + 1))
    context.execution_options.resource_limits = limits


def _source(read: ReadParts) -> Any:
    """A source of Ray Data's, of one task, which reads as far ahead as there is room."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    about = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)

    class PartSource(Datasource):  # type: ignore[misc,unused-ignore]
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            return [ReadTask(lambda: _tables(read), about)]

    return PartSource()


def _tables(read: ReadParts) -> Iterator[Any]:
    """The parts, and in place of one that cannot be read the error that a user can mend."""
    try:
        for value in read.parts():
            yield packed(value)
    except Gpt2rtError as error:
        yield packed((error, 0))
