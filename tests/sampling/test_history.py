"""Penalties and bans: equal to a simple implementation over the whole text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt import GPT2, SamplingParams
from gpt2rt.errors import InvalidSetting
from gpt2rt.sampling.history import Edits, History

V = 12
tokens = st.lists(st.integers(0, V - 1), max_size=30)


def plain(
    logits: np.ndarray, params: SamplingParams, edits: Edits, prompt: list[int], new: list[int]
) -> np.ndarray:
    """The rules as Transformers and OpenAI's API document them, token by token."""
    x = [float(value) for value in logits]
    text = prompt + new
    for token, bias in edits.bias:
        x[token] += bias
    for token in set(text):
        penalty = params.repetition_penalty
        x[token] = x[token] / penalty if x[token] > 0 else x[token] * penalty
    for token, count in Counter(new).items():
        x[token] -= params.frequency_penalty * count + params.presence_penalty
    n = params.no_repeat_ngram
    for token in range(V):
        grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)} if n else set()
        if n and len(text) >= n - 1 and (*text[len(text) - n + 1 :], token) in grams:
            x[token] = -np.inf
        for word in edits.words:
            if (*text, token)[-len(word) :] == word:
                x[token] = -np.inf
        if len(new) < params.min_length and token in edits.stop_ids:
            x[token] = -np.inf
    return np.array(x)


@given(
    st.builds(
        SamplingParams,
        repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
        frequency_penalty=st.sampled_from([0.0, 0.4, -0.2]),
        presence_penalty=st.sampled_from([0.0, 1.5]),
        no_repeat_ngram=st.integers(0, 4),
        min_length=st.integers(0, 8),
    ),
    st.sampled_from([(), ((3, 2.5), (7, -np.inf))]),
    st.sampled_from([(), ((4,), (1, 2), (5, 5, 6))]),
    st.sampled_from([(), (0,), (0, 9)]),
    tokens,
    tokens,
)
def test_edits_are_the_plain_ones_at_every_step(
    params: SamplingParams,
    bias: tuple[tuple[int, float], ...],
    words: tuple[tuple[int, ...], ...],
    stop_ids: tuple[int, ...],
    prompt: list[int],
    new: list[int],
) -> None:
    edits = Edits(bias, words, stop_ids)
    history = History(params, edits, prompt)
    logits = np.random.default_rng(len(prompt)).standard_normal(V).astype(np.float32)
    for step in range(len(new) + 1):
        found = history.edit(logits.copy()) if history.edits else logits
        wanted = plain(logits, params, edits, prompt, new[:step])
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        if step < len(new):
            history.take(new[step])


def test_words_and_biases_are_named_by_text(tiny: GPT2) -> None:
    t = tiny.tokenizer
    params = SamplingParams(logit_bias={"a": 3.0, 5: -1.0}, bad_words=["cat"])
    edits = Edits.of(params, t, [t.end_of_text])
    assert dict(edits.bias) == {t.encode("a")[0]: 3.0, 5: -1.0}
    assert set(edits.words) == {tuple(t.encode("cat")), tuple(t.encode(" cat"))}


@pytest.mark.parametrize(("bias", "fact"), [({"¤¤¤": 1.0}, "tokens"), ({999_999: 1.0}, "no token")])
def test_a_bias_on_no_single_token_is_refused(
    tiny: GPT2, bias: dict[int | str, float], fact: str
) -> None:
    with pytest.raises(InvalidSetting, match=fact):
        tiny.generate("a", SamplingParams(logit_bias=bias))


def test_what_is_banned_never_comes(tiny: GPT2) -> None:
    """Without end of text, and at a high temperature, at which all other tokens are drawn."""
    from gpt2rt import Stopping

    t = tiny.tokenizer
    stopping = Stopping(40, end_of_text=False)
    params = SamplingParams(temperature=3, seed=4)
    free = tiny.generate("a", params, stopping).tokens
    banned = free[10]
    off = SamplingParams(temperature=3, seed=4, logit_bias={banned: float("-inf")})
    assert banned not in tiny.generate("a", off, stopping).tokens
    single = SamplingParams(temperature=3, seed=4, no_repeat_ngram=1)
    once = tiny.generate("a", single, stopping)
    assert len(set(once.tokens + once.prompt_tokens)) == 40 + len(once.prompt_tokens)
    late = SamplingParams(temperature=3, seed=2, min_length=20, logit_bias={t.end_of_text: 30.0})
    ended = tiny.generate("a", late, Stopping(40))
    assert (len(ended.tokens), ended.finish_reason) == (20, "end_of_text")
