"""From requests to completions: a text depends on its request only, not on the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from any_settings import any_settings, check_settings, finished
from gpt2rt import GPT2, Beams, Completion, Passage, Request, SamplingParams, Stopping
from gpt2rt.engine.slots import Part
from gpt2rt.errors import InvalidSetting, PromptTooLong
from gpt2rt.generation.beams import log_softmax
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.scheduler import same_prompt_groups, window_after_slide
from gpt2rt.generation.tasks import Tasks
from gpt2rt.text.tokenizers import TextTokenizer
from models import TINY

FREE = Stopping(12, end_of_text=False)
GREEDY = SamplingParams(temperature=0)


def told(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [(c.prompt, c.tokens, c.text, c.finish_reason, c.stopped_by) for c in completions]


# ---- requests


def test_requests_with_settings_of_their_own_give_what_each_gives_alone(tiny: GPT2) -> None:
    mixed = [
        Request("the cat", GREEDY, FREE, sample=0),
        Request("the cat", SamplingParams(seed=3, top_k=5), FREE, sample=1),
        Request(None, SamplingParams(seed=3, repetition_penalty=1.5), Stopping(20), sample=2),
        Request("x", SamplingParams(seed=9, top_p=0.5), Stopping(30, strings=("a",)), sample=3),
        Request("zz top", SamplingParams(seed=9, min_p=0.1), FREE, sample=4, logprobs=True),
    ]
    together = finished(tiny, mixed)
    assert told(together) == [told(finished(tiny, [request]))[0] for request in mixed]
    assert told(finished(tiny, mixed[::-1], 2)) == told(together)


def test_requests_are_taken_as_slots_become_free(tiny: GPT2) -> None:
    """So their number may be unlimited."""
    taken: list[int] = []

    def endless() -> Iterator[Request]:
        while True:
            taken.append(len(taken))
            yield Request("a", GREEDY, Stopping(3, end_of_text=False), sample=taken[-1])

    pieces = tiny.run(endless(), batch_size=2)
    done = [next(pieces) for _ in range(60)]
    assert sum(piece.completion is not None for piece in done) == 20
    assert len(taken) <= 25


def test_runs_of_the_same_prompt_are_found() -> None:
    requests = [Prompted(Request(), (token,)) for token in (1, 1, 1, 2, 2, 3, 1)]
    assert [[r.tokens for r in group] for group in same_prompt_groups(requests, 2)] == [
        [(1,), (1,)], [(1,)], [(2,), (2,)], [(3,)], [(1,)],
    ]  # fmt: skip


def test_a_request_that_fails_does_not_stop_the_others(tiny: GPT2) -> None:
    nothing = SamplingParams(logit_bias=dict.fromkeys(range(TINY.n_vocab), -np.inf))
    requests = [
        Request("a", GREEDY, FREE, sample=0),
        Request("a", nothing, FREE, sample=1),
        Request("", GREEDY, FREE, sample=2),
        Request("x" * 400, GREEDY, FREE, sample=3),
        Request("b", GREEDY, FREE, sample=4),
    ]
    for batch_size in (1, 3):
        last = {p.sample: p for p in tiny.run(requests, batch_size=batch_size) if p.last}
        assert {n: type(p.failure).__name__ for n, p in last.items() if p.failure} == {
            1: "InvalidSetting",
            2: "BadText",
            3: "PromptTooLong",
        }
        for number in (0, 4):
            completion = last[number].completion
            assert completion is not None
            assert told([completion]) == told(finished(tiny, [requests[number]]))
    with pytest.raises(PromptTooLong):
        tiny.generate_batch(["a", "x" * 400])


# ---- stopping


def test_a_stop_string_ends_the_text_before_it(tiny: GPT2) -> None:
    """At any position relative to tokens; no piece ever shows a part of it."""
    params = SamplingParams(temperature=1.5, seed=1)
    long = Stopping(40, end_of_text=False)
    free = tiny.generate("hello", params, long).text
    for start in range(0, len(free) - 3, 3):
        wanted = free[start : start + 3]
        if "�" in wanted:
            continue
        stopping = Stopping(40, strings=[wanted], end_of_text=False)
        cut = tiny.generate("hello", params, stopping)
        assert cut.text == free[: free.index(wanted)]
        assert (cut.finish_reason, cut.stopped_by) == ("stop_string", wanted)
        assert "".join(tiny.stream("hello", params, stopping)) == cut.text
        assert free.startswith(tiny.tokenizer.decode(cut.tokens)[: len(cut.text)])


def test_a_stop_token_ends_the_text_and_is_told(tiny: GPT2) -> None:
    params = SamplingParams(seed=1)
    free = tiny.generate("hello", params, Stopping(30, end_of_text=False))
    token = free.tokens[8]
    cut = tiny.generate("hello", params, Stopping(30, tokens=[token], end_of_text=False))
    assert cut.tokens == free.tokens[: free.tokens.index(token)]
    assert (cut.finish_reason, cut.stopped_by) == ("stop_token", token)


def test_logprobs_are_the_models_own(tiny_models: dict[str, GPT2]) -> None:
    """Independent of temperature and penalties; equal to a forward pass of the whole text."""
    model = tiny_models["fp32"]
    request = Request(
        "hello", SamplingParams(temperature=2, repetition_penalty=1.7, seed=2), FREE, logprobs=True
    )
    (completion,) = finished(model, [request])
    fed = [*completion.prompt_tokens, *completion.tokens]
    rows = np.asarray(model.new_slots(1).step([Part(0, 0, fed, len(completion.tokens) + 1)]))[:-1]
    wanted = [log_softmax(row)[t] for row, t in zip(rows, completion.tokens, strict=True)]
    assert completion.logprobs == pytest.approx(wanted, abs=1e-4)
    pieces = [p for p in model.run([request]) if p.token is not None]
    assert tuple(p.logprob for p in pieces) == completion.logprobs


@pytest.mark.parametrize("top", [1, 5, 10 * TINY.n_vocab])
def test_alternatives_are_those_of_the_score(tiny_models: dict[str, GPT2], top: int) -> None:
    """The likeliest tokens by the model, whatever the settings; all tokens if that many do not
    exist."""
    model = tiny_models["fp32"]
    params = SamplingParams(seed=5, temperature=3, bad_words=("e",))
    pieces = list(model.run([Request("hello", params, FREE, top=top)]))
    completion = pieces[-1].completion
    assert completion is not None
    first, count = len(completion.prompt_tokens), min(top, TINY.n_vocab)
    passage = Passage((*completion.prompt_tokens, *completion.tokens), first)
    (wanted,) = model.score_tokens([passage], top=count)
    found = [piece for piece in pieces if piece.token is not None]
    assert [[i for i, _ in piece.top] for piece in found] == wanted.top_ids.tolist()
    values = np.array([[value for _, value in piece.top] for piece in found])
    np.testing.assert_allclose(values, wanted.top_logprobs, atol=1e-4)
    for piece in found:
        assert (piece.token, piece.logprob) in piece.top or count < TINY.n_vocab
    assert completion.logprobs == tuple(piece.logprob for piece in found)


# ---- the end of the context


def test_sliding_goes_on_as_if_the_window_were_the_prompt(tiny_models: dict[str, GPT2]) -> None:
    """Token for token, over three slides, computed outside the engine."""
    model = tiny_models["fp32"]
    n_ctx = TINY.n_ctx
    stopping = Stopping(2 * n_ctx + 20, end_of_text=False, overflow="slide")
    long = model.generate("hello", GREEDY, stopping)
    assert (len(long.tokens), long.finish_reason) == (2 * n_ctx + 20, "length")
    text = [*long.prompt_tokens, *long.tokens]
    seen = n_ctx + 1
    while seen < len(text):
        slots = model.new_slots(1)
        window = window_after_slide(text[:seen], n_ctx)
        assert (len(window), window[0], window[-1]) == (n_ctx // 2, text[0], text[seen - 1])
        logits, at = np.asarray(slots.step([Part(0, 0, window)])), len(window)
        while seen < len(text):
            assert text[seen] == int(np.argmax(logits[0]))
            seen += 1
            if at == n_ctx:
                break
            logits = np.asarray(slots.step([Part(0, at, [text[seen - 1]])]))
            at += 1


def test_without_sliding_the_reason_is_the_context(tiny: GPT2) -> None:
    ended = tiny.generate("hello", GREEDY, Stopping(500, end_of_text=False))
    assert (ended.finish_reason, ended.stopped_by) == ("context", None)


def test_too_long_a_prompt_is_cut_only_where_asked(tiny: GPT2) -> None:
    text = " ".join(str(n) for n in range(100))
    tokens = tiny.tokenizer.encode(text)
    assert len(tokens) > TINY.n_ctx
    with pytest.raises(PromptTooLong, match="truncated"):
        tiny.generate(text, GREEDY)
    left = tiny.generate(text, GREEDY, FREE, truncate="left")
    kept = TINY.n_ctx + 1 - 12  # room for what is asked for
    assert list(left.prompt_tokens) == tokens[-kept:]
    assert len(left.tokens) == 12
    right = tiny.generate(text, GREEDY, FREE, truncate="right")
    assert list(right.prompt_tokens) == tokens[:kept]
    half = tiny.generate(text, GREEDY, Stopping(end_of_text=False), truncate="left")
    assert len(half.tokens) == TINY.n_ctx // 2


# ---- contradictions


@pytest.mark.parametrize(
    ("ask", "fact"),
    [
        (lambda: Request(params=SamplingParams(min_length=9), stopping=Stopping(8)), "min_length"),
        (lambda: Request(truncate="middle"), "truncate"),  # type: ignore[arg-type]
        (lambda: Request(sample=-1), "sample"),
        (lambda: Beams(0), "beams"),
        (lambda: Beams(2.5), "beams"),  # type: ignore[arg-type]
        (lambda: Beams(2, float("nan")), "length_penalty"),
    ],
)
def test_contradictions_are_refused(ask: Callable[[], object], fact: str) -> None:
    with pytest.raises(InvalidSetting, match=fact):
        ask()


def test_a_stop_token_beyond_the_vocabulary_is_refused(tiny: GPT2) -> None:
    with pytest.raises(InvalidSetting, match="stop token"):
        tiny.generate("a", stopping=Stopping(tokens=[TINY.n_vocab]))


@pytest.mark.slow
@any_settings(400)
def test_any_settings_give_a_text_or_a_documented_error(
    tiny_models: dict[str, GPT2],
    prompt: str | None,
    params: dict[str, object],
    stopping: dict[str, object],
) -> None:
    """`make soak` tries 10,000."""
    check_settings(tiny_models["int8"], prompt, params, stopping)


# ---- prompts


class Counting:
    """A tokenizer that notes every text that it encodes."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self.encoded: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, *, special: bool | None = None) -> list[int]:
        self.encoded.append(text)
        return self._tokenizer.encode(text, special=special)


@pytest.fixture
def counted(tiny: GPT2, monkeypatch: pytest.MonkeyPatch) -> tuple[GPT2, list[str]]:
    """The model, and the texts that it has encoded."""
    counting = cast(TextTokenizer, spy := Counting(tiny.tokenizer))
    monkeypatch.setattr(tiny, "tokenizer", counting)
    monkeypatch.setattr(tiny, "tasks", Tasks(tiny.name, counting, TINY.n_ctx, 0.0))
    return tiny, spy.encoded


def test_a_prompt_is_encoded_once(counted: tuple[GPT2, list[str]]) -> None:
    """In every way to generate, and for all samples of it in a row."""
    model, encoded = counted
    prompts, short = ["a b", "the cat", "the cat", "x" * 400, "a b"], Stopping(2)
    request = Request("zz top", GREEDY, short)
    for call, wanted in (
        (lambda: model.generate("a b", GREEDY, short), ["a b"]),
        (lambda: list(model.stream("a b", GREEDY, short)), ["a b"]),
        (lambda: model.beam_search("a b", Beams(2), GREEDY, short), ["a b"]),
        (lambda: list(model.run(replace(request, sample=n) for n in range(50))), ["zz top"]),
    ):
        encoded.clear()
        call()
        assert encoded == wanted
    for many in (prompts, iter(prompts)):
        encoded.clear()
        model.generate_batch(many, GREEDY, short, truncate="left", batch_size=2)
        assert encoded == ["a b", "the cat", "x" * 400, "a b"]


def test_a_collection_is_checked_up_to_its_first_bad_prompt(
    counted: tuple[GPT2, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work: the engine is not asked for."""
    model, encoded = counted
    monkeypatch.setattr(model, "engine", lambda count: pytest.fail("the engine is started"))
    with pytest.raises(PromptTooLong):
        model.stream_batch(["a", "b", "x" * 400, "c", ""])
    assert encoded == ["a", "b", "x" * 400]


def test_the_cut_of_a_prompt_does_not_depend_on_the_request_before(tiny: GPT2) -> None:
    """A cut leaves room for the length, so that the same prompt may be cut in two ways."""
    requests = [
        Request("x" * 400, GREEDY, Stopping(length, end_of_text=False), truncate="left", sample=n)
        for n, length in enumerate((2, 9, 2))
    ]
    together = finished(tiny, requests)
    assert told(together) == [told(finished(tiny, [request]))[0] for request in requests]
    assert len(together[0].prompt_tokens) == len(together[1].prompt_tokens) + 7
