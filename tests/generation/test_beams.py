"""Beam search: correct scores, and exhaustive if the beam has room for all texts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gpt2rt import GPT2, Beams, Completion, HParams, Request, SamplingParams, Stopping
from gpt2rt.engine.slots import Part
from gpt2rt.errors import BadLogits, InvalidSetting
from gpt2rt.generation.beams import log_softmax
from gpt2rt.generation.client import Client
from gpt2rt.generation.task import Task
from models import LargerWeights, make_bundle

SMALL = HParams(n_vocab=257, n_ctx=16, n_embd=32, n_head=4, n_layer=2)


def log_probability(model: GPT2, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> float:
    fed = [*prompt, *tokens[:-1]]
    logits = np.asarray(model.new_slots(1).step([Part(0, 0, fed, len(tokens))]))
    return float(sum(log_softmax(row)[t] for row, t in zip(logits, tokens, strict=True)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    place = tmp_path_factory.mktemp("beams") / "small"
    return GPT2(make_bundle(place, LargerWeights(SMALL, seed=8, factor=12.0), "fp32"))


def test_one_beam_is_greedy(tiny: GPT2) -> None:
    stopping = Stopping(25)
    (found,) = tiny.beam_search("the cat", Beams(1), stopping=stopping)
    greedy = tiny.generate("the cat", SamplingParams(temperature=0), stopping)
    assert (found.tokens, found.finish_reason) == (greedy.tokens, greedy.finish_reason)


@pytest.mark.parametrize("penalty", [0.0, 1.0, -2.0])
def test_with_a_beam_for_every_token_the_search_is_exhaustive(small: GPT2, penalty: float) -> None:
    """The best of all 257 x 257 texts of two tokens, or of one that ends the text."""
    end = small.tokenizer.end_of_text
    beams = Beams(SMALL.n_vocab, penalty)
    found = small.beam_search("a", beams, stopping=Stopping(2))
    prompt = found[0].prompt_tokens
    slots = small.new_slots(1)
    first = log_softmax(np.asarray(slots.step([Part(0, 0, prompt)]))[0])
    scores: dict[tuple[int, ...], float] = {(end,): float(first[end])}
    for token in range(SMALL.n_vocab):
        if token != end:
            second = log_softmax(np.asarray(slots.step([Part(0, len(prompt), [token])]))[0])
            totals = first[token] + second
            scores |= {(token, t): float(totals[t]) for t in range(SMALL.n_vocab)}
    best = sorted(scores, key=lambda tokens: -beams.score(scores[tokens], len(tokens)))
    for completion, tokens in zip(found[:20], best, strict=False):
        wanted = beams.score(scores[tokens], len(tokens))
        assert completion.score == pytest.approx(wanted, abs=1e-4)
        assert completion.tokens == tuple(t for t in tokens if t != end)


@pytest.mark.parametrize("width", [2, 3, 7])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_scores_are_those_of_the_texts(small: GPT2, width: int, penalty: float) -> None:
    """Best first, all different, each scored as by a forward pass of the whole text."""
    end = small.tokenizer.end_of_text
    beams = Beams(width, penalty)
    found = small.beam_search("a b", beams, stopping=Stopping(9))
    assert len({(c.tokens, c.finish_reason) for c in found}) == len(found) == width
    scores = [c.score for c in found if c.score is not None]
    assert scores == sorted(scores, reverse=True)
    for c in found:
        tokens = (*c.tokens, end) if c.finish_reason == "end_of_text" else c.tokens
        total = log_probability(small, c.prompt_tokens, tokens)
        assert c.score == pytest.approx(beams.score(total, len(tokens)), abs=1e-3)
        assert c.text == small.tokenizer.decode(c.tokens)


def test_the_context_is_an_end_like_any_other(small: GPT2) -> None:
    found = small.beam_search("a b", Beams(3), stopping=Stopping(end_of_text=False))
    room = SMALL.n_ctx - len(found[0].prompt_tokens) + 1
    assert {(len(c.tokens), c.finish_reason) for c in found} == {(room, "context")}


def test_stop_strings_bans_and_penalties_count(small: GPT2) -> None:
    free = small.beam_search("a b", Beams(3), stopping=Stopping(8, end_of_text=False))[0]
    word = free.text[2]
    stopped = small.beam_search("a b", Beams(3), stopping=Stopping(8, (word,), end_of_text=False))
    assert all(word not in c.text for c in stopped)
    assert "stop_string" in {c.finish_reason for c in stopped}
    once = SamplingParams(no_repeat_ngram=1)
    for c in small.beam_search("a b", Beams(3), once, Stopping(8, end_of_text=False)):
        assert len({*c.tokens, *c.prompt_tokens}) == 8 + len(set(c.prompt_tokens))
    banned = SamplingParams(logit_bias=dict.fromkeys(free.tokens, -np.inf))
    for c in small.beam_search("a b", Beams(3), banned, Stopping(8, end_of_text=False)):
        assert not {*c.tokens} & {*free.tokens}


def test_what_cannot_be_is_refused(small: GPT2) -> None:
    with pytest.raises(InvalidSetting, match="slide"):
        small.beam_search("a", stopping=Stopping(overflow="slide"))


# ---- beside other texts

TEN = Stopping(10, end_of_text=False)


def searched(model: GPT2, width: int, prompt: str = "a b") -> Task:
    (prompted,) = model.tasks.read([Request(prompt, SamplingParams(seed=1), TEN)])
    task = model.tasks.begin(prompted)
    task.beams = Beams(width)
    return task


def drawn(model: GPT2, count: int) -> list[Task]:
    params = SamplingParams(seed=1)
    requests = [Request("b c d", params, TEN, sample=n) for n in range(count)]
    return [model.tasks.begin(prompted) for prompted in model.tasks.read(requests)]


def ended(client: Client) -> list[Completion]:
    pieces = []
    while client.in_flight:
        pieces += client.take()
    return [piece.completion for piece in pieces if piece.completion]


def texts(found: list[Completion]) -> list[tuple[object, ...]]:
    return [(c.tokens, c.text, c.score, c.finish_reason, c.stopped_by) for c in found]


@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_search_shares_the_steps_of_other_texts(tiny: GPT2, width: int) -> None:
    """And changes none of them; nor do they change what it finds."""
    wanted = texts(tiny.beam_search("a b", Beams(width), SamplingParams(seed=1), TEN))
    others = [c.tokens for c in tiny.generate_batch(["b c d"] * 3, SamplingParams(seed=1), TEN)]
    before = tiny.batch.statistics.steps
    with tiny.batch.client(width) as searching, tiny.batch.client(3) as drawing:
        task = searched(tiny, width)
        drawing.submit(drawn(tiny, 3))
        searching.submit([task])
        assert [c.tokens for c in sorted(ended(drawing), key=lambda c: c.sample)] == others
        assert ended(searching) == task.found[:1]
    assert texts(task.found) == wanted
    assert tiny.batch.statistics.steps - before <= 13  # two for prompts, ten for tokens, at most


def test_threads_search_side_by_side(tiny: GPT2) -> None:
    def search(width: int) -> list[tuple[object, ...]]:
        return texts(tiny.beam_search("a b", Beams(width), stopping=TEN))

    widths = [1, 2, 3, 4] * 2
    wanted = [search(width) for width in widths]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(search, widths)) == wanted


def test_a_search_waits_for_all_its_slots_and_nobody_overtakes_it(model: Path) -> None:
    with GPT2.load(model, threads=1) as tiny:
        tiny.batch.limit(4, 100)
        with (
            tiny.batch.client(9, owner="a") as first,
            tiny.batch.client(3, owner="b") as searching,
            tiny.batch.client(1, owner="c") as last,
        ):
            first.submit(drawn(tiny, 2))
            first.take()
            task = searched(tiny, 3)
            searching.submit([task])
            last.submit(drawn(tiny, 1))
            counts = tiny.batch.statistics
            while not task.found:
                tiny.batch.turn()
                counts = tiny.batch.statistics
                assert counts.running <= 2  # the search, and one text beside it
            assert len(task.found) == 3
            assert len(ended(first)) == 2
            assert len(ended(last)) == 1
            assert counts.slots == 4


def test_more_beams_than_slots_are_refused(model: Path) -> None:
    with GPT2.load(model, threads=1) as tiny:
        tiny.batch.limit(4, None)
        with pytest.raises(InvalidSetting, match="5 beams"):
            tiny.beam_search("a", Beams(5), stopping=TEN)
        assert len(tiny.beam_search("a", Beams(4), stopping=TEN)) == 4


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_search_that_is_left_frees_its_slots(tiny: GPT2, steps: int) -> None:
    with tiny.batch.client(2) as drawing:
        drawing.submit(drawn(tiny, 2))
        with tiny.batch.client(3) as searching:
            searching.submit([searched(tiny, 3)])
            for _ in range(steps):
                searching.call(lambda: None)
        wanted = [c.tokens for c in tiny.generate_batch(["b c d"] * 2, SamplingParams(seed=1), TEN)]
        assert [c.tokens for c in sorted(ended(drawing), key=lambda c: c.sample)] == wanted
    assert tiny.batch.statistics.slots == 0


def test_a_search_that_fails_fails_alone(tiny: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(logits: object) -> None:
        raise BadLogits("not finite")

    monkeypatch.setattr("gpt2rt.generation.beams.log_softmax", bad)
    with tiny.batch.client(2) as drawing:
        drawing.submit(drawn(tiny, 2))
        with pytest.raises(BadLogits):
            tiny.beam_search("a b", Beams(3), stopping=TEN)
        assert len(ended(drawing)) == 2
