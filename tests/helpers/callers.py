"""Clients of a batch that come and go, and what each of them has to get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from any_settings import finished
from gpt2rt import GPT2, Beams, Piece, Request, SamplingParams, Stopping
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.client import Client
from gpt2rt.generation.task import Task

LENGTH = 6
PROMPTS = ["the cat", "the cat sat on the mat", "a", "many more words than there are in the others"]
SEARCH = 16  # the number of a request that is searched for


def assert_empty(batch: Batch) -> None:
    now = batch.statistics
    assert (now.running, now.queued, now.slots) == (0, 0, 0)


def request(sample: int, length: int = LENGTH) -> Request:
    """One of a few requests, which differ in all that matters."""
    params = SamplingParams(seed=sample, top_k=(0, 40)[sample % 2], temperature=sample % 3 / 2)
    overflow = ("stop", "slide")[sample % 5 == 4]
    stopping = Stopping(length, end_of_text=False, overflow=overflow)  # type: ignore[arg-type]
    return Request(PROMPTS[sample % len(PROMPTS)], params, stopping, sample=sample)


def tasks(model: GPT2, requests: Sequence[Request]) -> list[Task]:
    return [model.tasks.begin(prompted) for prompted in model.tasks.read(requests)]


def alone(model: GPT2, wanted: Request) -> tuple[int, ...]:
    (completion,) = finished(model, [wanted], 1)
    return completion.tokens


def best(model: GPT2, width: int) -> list[tuple[int, ...]]:
    """What a search finds alone."""
    wanted = replace(request(SEARCH), stopping=Stopping(LENGTH))
    found = model.beam_search(wanted.prompt, Beams(width), wanted.params, wanted.stopping)
    return [text.tokens for text in found]


def drained(client: Client) -> list[Piece]:
    pieces = []
    while client.in_flight:
        pieces += client.take()
    return pieces


def completed(pieces: Sequence[Piece]) -> dict[int, tuple[int, ...]]:
    return {p.sample: p.completion.tokens for p in pieces if p.completion}


class Callers(RuleBasedStateMachine):
    """Clients that open, submit, step, take and close in any order, in one thread."""

    clients = Bundle("clients")

    model: GPT2
    wanted: list[tuple[int, ...]]
    searched: dict[int, list[tuple[int, ...]]]  # by width

    def __init__(self) -> None:
        super().__init__()
        self.got: dict[Client, dict[int, list[int]]] = {}
        self.searches: dict[Client, list[Task]] = {}

    @rule(target=clients, most=st.integers(1, 4), owner=st.sampled_from([None, "a", "b"]))
    def open(self, most: int, owner: str | None) -> Client:
        client = self.model.batch.client(most, owner=owner)
        self.got[client] = {}
        return client

    @rule(client=clients, samples=st.lists(st.integers(0, 15), min_size=1, max_size=4, unique=True))
    def submit(self, client: Client, samples: list[int]) -> None:
        running = self.got[client]
        fresh = [n for n in samples if n not in running][: client.most - client.in_flight]
        running.update({n: [] for n in fresh})
        client.submit(tasks(self.model, [request(n) for n in fresh]))

    @rule(client=clients)
    def search(self, client: Client) -> None:
        """A beam search, of as many beams as the client has room for, if it has nothing else."""
        if not client.in_flight:
            wanted = replace(request(SEARCH), stopping=Stopping(LENGTH))
            self.searches[client] = tasks(self.model, [wanted])
            self.searches[client][0].beams = Beams(client.most)
            client.submit(self.searches[client])

    @rule(client=clients)
    def take(self, client: Client) -> None:
        if client.in_flight:
            self.check(client, client.take())

    @rule(client=clients, most=st.integers(1, 20))
    def others_step(self, client: Client, most: int) -> None:
        """What a thread of another client does."""
        for _ in range(most):
            client.call(lambda: None)

    @rule(client=clients)
    def look(self, client: Client) -> None:
        self.check(client, client.ready())

    @rule(client=consumes(clients))
    def close(self, client: Client) -> None:
        client.close()
        self.got.pop(client)

    @invariant()
    def slots_suffice(self) -> None:
        now = self.model.batch.statistics
        assert now.running + now.queued <= sum(client.most for client in self.got)

    def check(self, client: Client, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert piece.failure is None
            if piece.sample == SEARCH:
                found = [text.tokens for text in self.searches[client][0].found]
                assert found == self.searched[client.most]
                continue
            if piece.token is not None:
                self.got[client][piece.sample].append(piece.token)
            if piece.completion:
                drawn = tuple(self.got[client].pop(piece.sample))
                assert drawn == piece.completion.tokens == self.wanted[piece.sample]

    def teardown(self) -> None:
        for client in self.got:
            self.check(client, drained(client))
            client.close()
        assert_empty(self.model.batch)
