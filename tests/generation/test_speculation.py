"""Speculative decoding: a draft changes the speed, never the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import Engines
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.slots import Part
from gpt2rt.errors import InvalidSetting
from gpt2rt.generation.request import Request
from gpt2rt.generation.speculation import (
    LONGEST,
    STEP_BASE,
    STEP_TOKEN,
    DraftLength,
    Lookup,
    SmallerModel,
)
from gpt2rt.sampling.sampling import Sampler
from models import REPEATABLE, TINY, LargerWeights, make_bundle

SAMPLER = Sampler(SamplingParams(), 0, 0)
STOPPINGS = [
    Stopping(30, end_of_text=False),
    Stopping(1),
    Stopping(40, strings=("e", "th")),
    Stopping(40, tokens=(5, 9, 44)),
    Stopping(100, end_of_text=False, overflow="slide"),
]
PARAMS = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=0, repetition_penalty=1.3),
    SamplingParams(seed=1, temperature=0.3),
    SamplingParams(seed=2, top_p=0.9, no_repeat_ngram=3),
]


class Scripted:
    """A draft that proposes a given text, with some wrong tokens."""

    cost = 0.0

    def __init__(self, text: Sequence[int], wrong_every: int) -> None:
        self._text, self._wrong_every = list(text), wrong_every

    def propose(self, tokens: Sequence[int], count: int, sampler: Sampler) -> list[int]:
        ahead = self._text[len(tokens) : len(tokens) + count]
        return [
            t if (len(tokens) + i) % self._wrong_every else (t + 1) % TINY.n_vocab
            for i, t in enumerate(ahead)
        ]


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with the same tokenizer that nearly always disagrees with TINY."""
    place = tmp_path_factory.mktemp("draft") / "other"
    return make_bundle(place, LargerWeights(TINY, seed=77, factor=12.0), "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("stopping", STOPPINGS, ids=str)
@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize("wrong_every", [1, 2, 5, 1000])
def test_a_text_is_the_same_with_any_draft(
    tiny_models: dict[str, GPT2], params: SamplingParams, stopping: Stopping, wrong_every: int
) -> None:
    """Tokens, text and finish reason, with drafts that are always, never or sometimes right."""
    model = tiny_models["fp32"]
    request = Request("the cat the cat", params, stopping)
    (plain,) = [p.completion for p in model.run([request]) if p.completion]
    text = [*plain.prompt_tokens, *plain.tokens, *range(20)]
    drafted = Engines(model.new_slots, make_draft=lambda: Scripted(text, wrong_every))
    pieces = list(drafted.run([request], model.tasks, 1))
    assert pieces[-1].completion is not None
    found = pieces[-1].completion
    assert (found.tokens, found.text) == (plain.tokens, plain.text)
    assert (found.finish_reason, found.stopped_by) == (plain.finish_reason, plain.stopped_by)
    assert "".join(piece.text for piece in pieces) == plain.text
    assert found.accepted <= found.drafted
    if (wrong_every, plain.finish_reason, stopping.overflow) == (1000, "length", "stop"):
        if len(plain.tokens) == 1:
            return
        assert found.accepted == found.drafted > 0


def drafted_by(bundle: Bundle, draft: Bundle) -> GPT2:
    """With the cost of a small draft; at its real cost it would propose nothing."""
    model, smaller = GPT2(bundle), GPT2(draft)
    model.make_draft = lambda: SmallerModel(smaller.new_slots(1), smaller.hparams.n_ctx, cost=0.05)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("precision", REPEATABLE)
@pytest.mark.parametrize("kind", ["lookup", "smaller", "itself"])
@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_the_real_drafts_change_nothing(
    tiny_bundles: dict[str, Bundle],
    larger: Bundle,
    kind: str,
    params: SamplingParams,
    precision: str,
) -> None:
    mine = tiny_bundles[precision]
    plain = GPT2(mine)
    drafts = {"smaller": larger, "itself": mine}
    model = drafted_by(mine, drafts[kind]) if kind in drafts else GPT2(mine, draft="lookup")
    stopping = Stopping(35, end_of_text=False)
    for prompt in ("the cat sat on the cat sat on the cat", None, "x"):
        wanted = plain.generate(prompt, params, stopping)
        found = model.generate(prompt, params, stopping)
        assert (found.tokens, found.text) == (wanted.tokens, wanted.text)
    batch = model.generate_batch(["a", "b", "a"], params, stopping)
    alone = plain.generate_batch(["a", "b", "a"], params, stopping)
    assert [c.tokens for c in batch] == [c.tokens for c in alone]


def test_a_model_drafts_perfectly_for_itself(tiny_bundles: dict[str, Bundle]) -> None:
    """In sampling, too: it draws by the same random numbers."""
    alike = drafted_by(tiny_bundles["fp32"], tiny_bundles["fp32"])
    for params in (SamplingParams(temperature=0), SamplingParams(seed=3, top_k=40)):
        found = alike.generate("hello", params, Stopping(40, end_of_text=False))
        assert found.accepted == found.drafted > 20


@pytest.mark.slow
def test_sampling_with_a_draft_follows_the_models_distribution(
    tiny_bundles: dict[str, Bundle], larger: Bundle
) -> None:
    """Chi-squared of the second token over many seeds, against the model's own distribution."""
    model = drafted_by(tiny_bundles["fp32"], larger)
    prompt = tuple(model.tokenizer.encode("the cat"))
    first = model.generate("the cat", SamplingParams(temperature=0), Stopping(1)).tokens[0]
    slots = model.new_slots(1)
    logits = np.asarray(slots.step([Part(0, 0, [*prompt, first])]), np.float64)[0]
    shares = np.exp(logits - logits.max())
    shares[[*prompt, first]] = 0  # by the ban on repeating anything
    shares /= shares.sum()
    counts, drafted, n = np.zeros(TINY.n_vocab), 0, 400
    stopping = Stopping(6, end_of_text=False)
    params = SamplingParams(seed=1, no_repeat_ngram=1, logit_bias={first: 1e6})
    requests = (Request("the cat", params, stopping, sample=sample) for sample in range(n))
    for piece in model.run(requests, batch_size=1):
        if piece.completion is not None:
            assert piece.completion.tokens[0] == first
            counts[piece.completion.tokens[1]] += 1
            drafted += piece.completion.drafted
    assert drafted > n
    common = shares * n >= 5
    observed = np.array([*counts[common], counts[~common].sum()])
    expected = n * np.array([*shares[common], shares[~common].sum()])
    statistic = float(((observed - expected) ** 2 / expected).sum())
    degrees = len(expected) - 1
    assert statistic < degrees + 4 * np.sqrt(2 * degrees)


# ---- the drafts


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 8))
@settings(derandomize=True)
def test_lookup_continues_the_last_place_that_looked_alike(tokens: list[int], count: int) -> None:
    proposed = Lookup().propose(tokens, count, SAMPLER)
    for n in Lookup.LENGTHS:
        places = [end for end in range(n, len(tokens)) if tokens[end - n : end] == tokens[-n:]]
        if places and n <= len(tokens):
            follow = tokens[places[-1] :]
            assert proposed == (follow * count)[:count]
            return
    assert proposed == []


def test_lookup_indexes_as_the_text_grows() -> None:
    tokens = np.random.default_rng(0).integers(0, 4, 200).tolist()
    growing = Lookup()
    for end in range(1, len(tokens)):
        assert growing.propose(tokens[:end], 5, SAMPLER) == Lookup().propose(
            tokens[:end], 5, SAMPLER
        )


def test_a_smaller_model_reads_only_what_is_new(tiny_models: dict[str, GPT2]) -> None:
    """After any rejection it proposes the same as a new draft would."""
    model = tiny_models["fp32"]
    rng = np.random.default_rng(3)

    def draft() -> SmallerModel:
        return SmallerModel(model.new_slots(1), TINY.n_ctx, 0.1)

    kept, tokens = draft(), [1, 2, 3]
    while len(tokens) < TINY.n_ctx:
        count = int(rng.integers(1, 6))
        greedy = Sampler(SamplingParams(temperature=0), 0, 0)
        proposed = kept.propose(tokens, count, greedy)
        assert proposed == draft().propose(tokens, count, greedy)
        assert len(proposed) == min(count, TINY.n_ctx - len(tokens))
        tokens += proposed[: int(rng.integers(0, len(proposed) + 1))]
        tokens.append(int(rng.integers(0, TINY.n_vocab)))


def test_another_tokenizer_is_refused(
    tiny_bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2rt.bundles import catalog

    demo = GPT2(Bundle.open(catalog.demo_bundle()))
    with pytest.raises(InvalidSetting, match="another tokenizer"):
        GPT2(tiny_bundles["fp32"], draft=demo)


# ---- the controller


def cost_of(proposed: int, draft: float) -> float:
    return 1.0 if proposed == 0 else STEP_BASE + STEP_TOKEN * (proposed + 1) + draft * proposed


@pytest.mark.parametrize("draft", [0.0, 0.16, 0.5, 0.9])
@pytest.mark.parametrize("right", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("length", [60, 1000])
def test_it_switches_itself_off_where_it_does_not_pay(
    draft: float, right: float, length: int
) -> None:
    """By the measured cost of a step, a text takes at most 10 % more than without a draft."""
    rng = np.random.default_rng(0)
    controller, made, cost = DraftLength(draft), 0, 0.0
    while made < length:
        proposed = controller.choose(min(LONGEST, length - made))
        accepted = 0
        while accepted < proposed and rng.random() < right:
            accepted += 1
        controller.record(proposed, accepted)
        made += accepted + 1
        cost += cost_of(proposed, draft)
    assert cost <= 1.1 * length + 3
    if right == 1.0 and draft <= 0.16:
        assert cost < length / 1.7
