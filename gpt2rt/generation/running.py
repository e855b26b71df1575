"""Requests for many prompts, and any number of requests run in a batch, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from gpt2rt.checks import check_kind, check_list
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.beams import Beams
from gpt2rt.generation.completion import Completion, Piece, raise_failures
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.request import Request
from gpt2rt.generation.scheduler import same_prompt_groups
from gpt2rt.generation.stopping import Stopping
from gpt2rt.generation.tasks import Tasks
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


class Model(Protocol):
    """A model with what a run needs of it: its batch, and tasks for requests."""

    batch: Batch
    tasks: Tasks


def best_texts(model: Model, prompted: Prompted, beams: Beams) -> list[Completion]:
    """The texts that a beam search finds for a request, the best first.

    Raises `BadLogits`, and `InvalidSetting` if the settings leave no token.
    """
    task = model.tasks.begin(prompted)
    task.beams = beams
    with model.batch.client(beams.width) as client:
        client.submit([task])
        deque(raise_failures(client.until_done()), maxlen=0)
    return task.found


def run_all(
    model: Model, requests: Iterator[Prompted], most: int, *, ends_only: bool
) -> Iterator[Piece]:
    """The pieces of all requests, of which up to `most` run at a time; more are taken as some end.

    A request that cannot begin gives a piece with the failure. `ends_only`: pieces may be left out,
    except the last of each text.
    """
    groups, left = same_prompt_groups(requests, most), deque[Prompted]()
    with model.batch.client(most) as client:
        while True:
            while room := most - client.in_flight:
                left = left or deque(next(groups, ()))
                if not left:
                    break
                tasks = []
                for prompted in [left.popleft() for _ in range(min(len(left), room))]:
                    try:
                        tasks.append(model.tasks.begin(prompted))
                    except Gpt2rtError as error:
                        yield Piece(prompted.request.sample, "", failure=error)
                client.submit(tasks)
            if not client.in_flight:
                return
            yield from client.until_done() if ends_only else client.take()
