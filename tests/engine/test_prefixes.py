"""The cache of prefixes: computed once, with the same text as without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.engine.engine import Engine
from gpt2rt.engine.prefixes import BLOCK, PrefixCache
from gpt2rt.engine.slots import Part
from gpt2rt.engine.standard import StandardSlots
from gpt2rt.errors import InvalidSetting
from models import LargerWeights, assert_same, make_bundle

SIZE = 64  # bytes of a block in the tests without a model


def made(tokens: list[int], start: int) -> np.ndarray:
    """Keys and values whose numbers encode the tokens that they are computed from."""
    return np.full(SIZE // 4, hash(tuple(tokens[: start + BLOCK])) % 10_000, np.float32)


prompts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3 * BLOCK)), max_size=40
)


@given(prompts, st.integers(0, 12))
@settings(derandomize=True)
def test_what_is_found_is_what_those_tokens_gave(
    asked: list[tuple[int, int, int]], blocks: int
) -> None:
    """Never another prompt's blocks, never more than the capacity, never the last token."""
    cache = PrefixCache(blocks * SIZE)
    found_tokens = 0
    for first, second, length in asked:
        tokens = ([first] * BLOCK + [second] * 2 * BLOCK)[: length or 1]
        found = cache.find(tokens)
        assert len(found) * BLOCK < len(tokens)
        for place, kv in enumerate(found):
            np.testing.assert_array_equal(kv, made(tokens, place * BLOCK))
        found_tokens += len(found) * BLOCK
        cache.store(tokens, lambda start, _, tokens=tokens: made(tokens, start))  # type: ignore[misc]
        assert cache.statistics.bytes <= blocks * SIZE
        kept = min(blocks, (len(tokens) - 1) // BLOCK)
        assert len(cache.find(tokens)) == kept, "what was just read is there, as far as it fits"
    assert cache.statistics.found >= found_tokens


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(3 * SIZE)
    a, b, c, d = ([n] * (BLOCK + 1) for n in range(4))
    for tokens in (a, b, c):
        cache.store(tokens, lambda start, _, tokens=tokens: made(tokens, start))  # type: ignore[misc]
    assert cache.find(a)
    cache.store(d, lambda start, _: made(d, start))
    assert [bool(cache.find(tokens)) for tokens in (a, b, c, d)] == [True, False, True, True]
    assert cache.statistics.evicted == 1


LONG = HParams(n_vocab=300, n_ctx=4 * BLOCK, n_embd=32, n_head=4, n_layer=2)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("prefixes") / request.param
    return make_bundle(place, LargerWeights(LONG, seed=5, factor=12.0), request.param)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * BLOCK), st.integers(0, 2 * BLOCK), st.integers(0, 9)),
        min_size=2,
        max_size=8,
    )
)
@settings(max_examples=15, derandomize=True)
def test_logits_are_the_same_with_and_without(
    bundle: Bundle, cuts: list[tuple[int, int, int]]
) -> None:
    """Prompts that share random beginnings, in one engine with the cache and one without."""
    model = GPT2(bundle)
    base = np.random.default_rng(1).integers(0, LONG.n_vocab, 3 * BLOCK).tolist()
    cached = Engine(model.new_slots(1), PrefixCache(1 << 20))
    plain = Engine(model.new_slots(1))
    for shared, own, seed in cuts:
        rest = np.random.default_rng(seed).integers(0, LONG.n_vocab, own + 1).tolist()
        prompt = [*base[:shared], *rest][: LONG.n_ctx]
        rows = []
        for engine in (cached, plain):
            sequence = engine.start(prompt)
            (logits,) = engine.read([sequence])
            rows.append(logits)
            more = len(prompt) < LONG.n_ctx
            rows.append(np.array(engine.step([sequence.part([5])])) if more else logits)
            engine.finish(sequence)
        assert_same(rows[0], rows[2], bundle.manifest.precision)
        assert_same(rows[1], rows[3], bundle.manifest.precision)


def test_a_text_tells_how_much_was_read_before(bundle: Bundle) -> None:
    model, cold = GPT2(bundle), GPT2(bundle, prefix_bytes=0)
    params, stopping = SamplingParams(seed=3, temperature=1.5), Stopping(10, end_of_text=False)
    shared = "the quick brown fox jumps over the lazy dog " * 2
    texts = [shared[: 2 * BLOCK], shared[: 2 * BLOCK] + "!", shared[:BLOCK] + "?", "other"]
    warm = [model.generate(text, params, stopping) for text in texts]
    assert [c.tokens for c in warm] == [cold.generate(t, params, stopping).tokens for t in texts]
    assert warm[0].cached_tokens == 0
    assert warm[1].cached_tokens > 0
    assert model.prefixes is not None
    statistics = model.prefixes.statistics
    assert (statistics.prompts, statistics.found) == (4, sum(c.cached_tokens for c in warm))
    assert cold.prefixes is None


def test_within_a_batch_a_beginning_is_read_once(bundle: Bundle) -> None:
    model = GPT2(bundle)
    shared = "the quick brown fox jumps over the lazy dog, all day long"
    done = model.generate_batch([f"{shared} {n}" for n in range(5)], stopping=Stopping(3))
    assert [c.cached_tokens > 0 for c in done] == [False, True, True, True, True]


def test_keys_and_values_go_out_and_in_again(bundle: Bundle) -> None:
    model = GPT2(bundle)
    tokens = np.random.default_rng(1).integers(0, LONG.n_vocab, 20).tolist()
    two = model.new_slots(2)
    two.step([Part(0, 0, tokens)])
    two.write(1, 0, two.read(0, 0, 12))
    two.write(1, 12, two.read(0, 12, 20))
    rows = two.step([Part(slot, 20, [7]) for slot in (0, 1)])
    assert_same(rows[0], rows[1], bundle.manifest.precision)


def test_the_standard_graph_has_them_too() -> None:
    slots = StandardSlots(None, HParams(50, 9, 32, 4, 2), 2)
    kv = np.random.default_rng(0).standard_normal((2, 2, 4, 9, 8)).astype(np.float32)
    slots.write(0, 0, kv)
    slots.write(1, 0, slots.read(0, 0, 5))
    slots.write(1, 5, slots.read(0, 5, 9))
    np.testing.assert_array_equal(slots.read(1, 0, 9), kv)


def test_a_negative_capacity_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidSetting, match="prefix_bytes"):
        GPT2(bundle, prefix_bytes=-1)
