"""Requests for many prompts, and any number of requests run in a batch, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from gpt2rt.checks import check_kind, check_list
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.completion import Piece
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.request import Request
from gpt2rt.generation.scheduler import same_prompt_groups
from gpt2rt.generation.stopping import Stopping
from gpt2rt.generation.task import Task
from gpt2rt.sampling.constraint import Constraint
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.text.prompts import Prompt, Truncate


def requests_of(
    prompts: Iterable[Prompt],
    params: SamplingParams,
    stopping: Stopping,
    constraint: Constraint | None,
    truncate: Truncate,
    special: bool | None,
) -> Iterator[Request]:
    """The requests for these prompts, each made when it is asked for."""
    check_list("prompts", prompts, "generate")
    check_kind("params", params, SamplingParams)
    seeded = params.seeded()
    return (
        Request(prompt, seeded, stopping, constraint, truncate, sample, special=special)
        for sample, prompt in enumerate(prompts)
    )


def run_all(
    batch: Batch,
    requests: Iterator[Prompted],
    most: int,
    begin: Callable[[Prompted], Task],
    *,
    ends_only: bool,
) -> Iterator[Piece]:
    """The pieces of all requests, of which up to `most` run at a time; more are taken as some end.

    `begin` makes a task; what it raises is the failure of a piece. `ends_only`: pieces may be left
    out, except the last of each text.
    """
    groups, left = same_prompt_groups(requests, most), deque[Prompted]()
    with batch.client(most) as client:
        while True:
            while room := most - client.in_flight:
                left = left or deque(next(groups, ()))
                if not left:
                    break
                tasks = []
                for prompted in [left.popleft() for _ in range(min(len(left), room))]:
                    try:
                        tasks.append(begin(prompted))
                    except Gpt2rtError as error:
                        yield Piece(prompted.request.sample, "", failure=error)
                client.submit(tasks)
            if not client.in_flight:
                return
            yield from client.until_done() if ends_only else client.take()
