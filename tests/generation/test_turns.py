"""The turns of a batch: prompts are read side by side, within a budget, beside new tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from any_settings import finished
from batches import Engines
from gpt2rt import GPT2, Completion, Piece, Request, SamplingParams, Stopping
from gpt2rt.engine.engine import ALONE, Engine
from gpt2rt.engine.prefixes import PrefixCache
from gpt2rt.engine.slots import Logits, Part, Slots
from gpt2rt.sampling.selection import Draw
from models import REPEATABLE, TINY, assert_same

GREEDY = SamplingParams(temperature=0)
LENGTHS = st.lists(st.integers(1, TINY.n_ctx), min_size=1, max_size=9)


class Watched:
    """Slots that write down the parts of every step."""

    def __init__(self, slots: Slots) -> None:
        self._slots, self.count, self.budget = slots, slots.count, slots.budget
        self.prefixes, self.ahead = slots.prefixes, slots.ahead
        self.copy, self.read, self.write = slots.copy, slots.read, slots.write
        self.steps: list[list[Part]] = []

    def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
        self.steps.append(list(parts))
        assert len({part.slot for part in parts}) == len(parts)
        assert len(draws) == sum(part.wanted for part in parts)
        return np.asarray(self._slots.step(parts, draws))


def prompt(number: int, length: int) -> list[int]:
    return np.random.default_rng(number).integers(0, TINY.n_vocab, length).tolist()  # type: ignore[no-any-return]


def requests_of(lengths: Sequence[int], overflow: str = "stop") -> list[Request]:
    stopping = Stopping(8, end_of_text=False, overflow=overflow)  # type: ignore[arg-type]
    return [
        Request(prompt(n, length), GREEDY, stopping, sample=n, logprobs=True)
        for n, length in enumerate(lengths)
    ]


def run(
    model: GPT2,
    requests: Iterable[Request],
    count: int,
    budget: int | None = None,
    prefixes: PrefixCache | None = None,
) -> tuple[list[list[Part]], Iterator[Piece]]:
    """The parts of the steps, which become more as the pieces are taken."""
    slots = Watched(model.new_slots(count))
    engines = Engines(lambda _: slots, lambda slots: Engine(slots, prefixes))
    return slots.steps, engines.run(requests, model.tasks, count, budget)


def completions(pieces: Iterator[Piece]) -> list[Completion]:
    done = [piece.completion for piece in pieces if piece.completion]
    return sorted(done, key=lambda completion: completion.sample)


@pytest.mark.slow
@given(
    st.sampled_from(REPEATABLE),
    LENGTHS,
    st.integers(1, 5),
    st.integers(1, 60),
    st.sampled_from(["stop", "slide"]),
)
@settings(max_examples=40, derandomize=True)
def test_a_text_is_the_same_alone_and_with_any_mates_and_budget(
    tiny_models: dict[str, GPT2],
    precision: str,
    lengths: list[int],
    count: int,
    budget: int,
    overflow: str,
) -> None:
    model, requests = tiny_models[precision], requests_of(lengths, overflow)
    together = completions(run(model, requests, count, budget)[1])
    for request, found in zip(requests, together, strict=True):
        (alone,) = finished(model, [request])
        assert (found.tokens, found.finish_reason) == (alone.tokens, alone.finish_reason)
        assert_same(found.logprobs, alone.logprobs, precision)


@pytest.mark.slow
@given(LENGTHS, st.integers(1, 5), st.integers(1, 60))
@settings(max_examples=40, derandomize=True)
def test_a_turn_is_bounded_and_cuts_one_prompt(
    tiny_models: dict[str, GPT2], lengths: list[int], count: int, budget: int
) -> None:
    steps, pieces = run(tiny_models["fp32"], requests_of(lengths), count, budget)
    assert len(completions(pieces)) == len(lengths)
    for parts in steps:
        assert sum(len(part.tokens) for part in parts) <= max(ALONE * budget, budget + count)
        assert len(parts) <= count
        assert sum(not part.wanted for part in parts) <= 1
    assert max(map(len, steps)) == min(count, len(lengths)) or budget < sum(lengths)


def begun(pieces: Iterator[Piece]) -> list[int]:
    """The samples in the order of their first tokens."""
    return list(dict.fromkeys(piece.sample for piece in pieces if piece.token is not None))


def test_of_prompts_alike_first_come_is_first_read(tiny_models: dict[str, GPT2]) -> None:
    for budget in (1, 7, 60):
        pieces = run(tiny_models["fp32"], requests_of([9] * 7), 3, budget)[1]
        assert begun(pieces) == [*range(7)]


def test_a_short_prompt_overtakes_a_long_one_that_is_not_put_off_for_ever(
    tiny_models: dict[str, GPT2],
) -> None:
    order = begun(run(tiny_models["fp32"], requests_of([40, *[10] * 11]), 3, 4)[1])
    assert 0 < order.index(0) < 5
    assert [n for n in order if n] == [*range(1, 12)]


def test_ragged_prompts_keep_all_slots_busy(tiny_models: dict[str, GPT2]) -> None:
    lengths = [5, 30, 1, 12, 40, 3, 22, 9, 17, 2, 38, 6]
    steps, pieces = run(tiny_models["fp32"], requests_of(lengths), 4)
    assert len(completions(pieces)) == len(lengths)
    assert [len(parts) for parts in steps].count(4) >= len(steps) - 8
    assert len(steps) == 8 * len(lengths) // 4
    assert [len(part.tokens) for part in steps[0]] == lengths[:4]


@pytest.mark.parametrize("survivors", [0, 1, 3])
def test_where_texts_end_together_few_others_move(
    tiny_models: dict[str, GPT2], survivors: int
) -> None:
    """Those that go on move into the slots of those that ended, each at most once."""
    model, moved = tiny_models["int8"], []
    slots = Watched(model.new_slots(8))
    copy = slots.copy

    def watched(source: int, target: int, length: int) -> None:
        moved.append(source) if source != target else None
        copy(source, target, length)

    slots.copy = watched
    lengths = [4] * (8 - survivors) + [9] * survivors
    requests = [
        Request(prompt(n, 5), GREEDY, Stopping(length, end_of_text=False), sample=n)
        for n, length in enumerate(lengths)
    ]
    engines = Engines(lambda _: slots)
    done = completions(engines.run(requests, model.tasks, 8))
    assert [len(text.tokens) for text in done] == lengths
    assert len(moved) == survivors
    for text, request in zip(done, requests, strict=True):
        (alone,) = model.generate_batch([request.prompt], GREEDY, request.stopping)
        assert text.tokens == alone.tokens


def test_samples_of_one_prompt_read_it_once(tiny_models: dict[str, GPT2]) -> None:
    """While others with the same prompt wait, their slots are kept for them."""
    model, tokens = tiny_models["fp32"], prompt(1, 30)
    stopping = Stopping(5, end_of_text=False)
    same = [Request(tokens, SamplingParams(seed=n), stopping, sample=n) for n in range(3)]
    other = Request(prompt(2, 20), GREEDY, stopping, sample=3)
    steps, pieces = run(model, [*same, other], 4)
    found = completions(pieces)
    assert [[len(part.tokens) for part in parts] for parts in steps[:2]] == [[30, 20], [1] * 4]
    assert [c.cached_tokens for c in found] == [0, 30, 30, 0]
    for request, completion in zip([*same, other], found, strict=True):
        assert completion.tokens == finished(model, [request])[0].tokens
        assert completion.timing.prefill_ms > 0


def test_prompts_that_begin_alike_read_the_beginning_once(tiny_models: dict[str, GPT2]) -> None:
    shared = prompt(1, 33)
    stopping = Stopping(3, end_of_text=False)
    requests = [Request([*shared, n], GREEDY, stopping, sample=n) for n in range(3)]
    alien = Request(prompt(9, 40), GREEDY, stopping, sample=3)
    cache = PrefixCache(1 << 20)
    steps, pieces = run(tiny_models["fp32"], [*requests, alien], 4, prefixes=cache)
    found = completions(pieces)
    assert [c.cached_tokens for c in found] == [0, 32, 32, 0]
    assert sorted(len(part.tokens) for part in steps[0]) == [34, 40]
    for request, completion in zip([*requests, alien], found, strict=True):
        assert completion.tokens == finished(tiny_models["fp32"], [request])[0].tokens


@pytest.mark.parametrize("taken", [0, 1, 2, 5])
def test_nothing_is_lost_when_a_run_is_closed_while_prompts_are_read(
    tiny_models: dict[str, GPT2], taken: int
) -> None:
    """The prefix cache has no half prompts; requests that were not admitted are still there."""
    model, cache = tiny_models["fp32"], PrefixCache(1 << 20)
    requests = requests_of([40, 40, 36, 40, 40, 40])
    source = iter(requests)
    steps, pieces = run(model, source, 2, 7, cache)
    assert len(list(islice(pieces, taken))) == taken
    assert not taken or any(not part.wanted for part in steps[-1])
    del pieces
    assert len(list(source)) >= 3
    again = completions(run(model, requests, 2, prefixes=cache)[1])
    for request, completion in zip(requests, again, strict=True):
        assert completion.tokens == finished(model, [request])[0].tokens


def test_a_prompt_that_fails_leaves_its_mates_alone(
    tiny_models: dict[str, GPT2],
) -> None:
    requests = requests_of([20, 20, 20, 20])
    requests[1] = Request([1] * (TINY.n_ctx + 1), GREEDY, sample=1)
    nothing = SamplingParams(logit_bias=dict.fromkeys(range(TINY.n_vocab), -np.inf))
    requests[2] = Request(prompt(2, 20), nothing, sample=2)
    pieces = list(run(tiny_models["fp32"], requests, 3, 9)[1])
    failed = [piece.sample for piece in pieces if piece.failure]
    assert failed == [1, 2]
    assert [c.sample for c in completions(iter(pieces))] == [0, 3]


def test_a_prompt_beside_a_text_in_progress_is_read_in_smaller_pieces(
    tiny_models: dict[str, GPT2],
) -> None:
    steps, pieces = run(tiny_models["fp32"], requests_of([1, 40]), 2, 4)
    assert list(pieces)
    assert [len(part.tokens) for part in steps[0]] == [1, 4 * ALONE - 1]
    assert [len(part.tokens) for part in steps[1]] == [1, 4]
