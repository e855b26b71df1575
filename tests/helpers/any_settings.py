"""Random settings of a request, and what any of them has to end in."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2rt import GPT2, Completion, Request, SamplingParams, Stopping
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generation.completion import raise_failures
from models import TINY


def finished(model: GPT2, requests: list[Request], batch_size: int = 4) -> list[Completion]:
    pieces = raise_failures(model.run(requests, batch_size=batch_size))
    done = [piece.completion for piece in pieces if piece.completion]
    return sorted(done, key=lambda completion: completion.sample)


PARAMS = {
    "temperature": st.one_of(st.just(0.0), st.floats(0, 100), st.floats()),
    "top_k": st.integers(-2, 2000),
    "top_p": st.floats(-0.5, 1.5),
    "min_p": st.floats(-0.5, 1.5),
    "typical_p": st.floats(-0.5, 1.5),
    "repetition_penalty": st.floats(0, 10),
    "frequency_penalty": st.floats(-5, 5),
    "presence_penalty": st.floats(-5, 5),
    "no_repeat_ngram": st.integers(-1, 5),
    "min_length": st.integers(-1, 10),
    "logit_bias": st.dictionaries(st.integers(-1, 310), st.floats(), max_size=3),
    "bad_words": st.lists(st.text(max_size=3), max_size=3),
    "seed": st.integers(-1, 2**64),
    "compat": st.sampled_from([None, "openai"]),
}
STOPPING = {
    "length": st.one_of(st.none(), st.integers(-1, 8)),
    "strings": st.lists(st.text(max_size=3), max_size=3),
    "tokens": st.lists(st.integers(-1, 310), max_size=2),
    "end_of_text": st.booleans(),
}


def any_settings(limit: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Random parameters, each mostly left at its default; random Unicode prompts."""
    few = settings(
        max_examples=limit,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    params = st.fixed_dictionaries({}, optional=PARAMS)
    stopping = st.fixed_dictionaries({}, optional=STOPPING)
    return lambda test: few(given(st.none() | st.text(max_size=20), params, stopping)(test))


def check_settings(
    model: GPT2, prompt: str | None, params: dict[str, object], stopping: dict[str, object]
) -> None:
    """A text by the rules, or an error in one line."""
    completion = None
    try:
        drawn = SamplingParams(**{"seed": 1, **params})  # type: ignore[arg-type]
        request = Request(prompt, drawn, Stopping(**stopping))  # type: ignore[arg-type]
        (completion,) = finished(model, [request])
    except Gpt2rtError as error:
        said = str(error)
    if completion is None:
        assert said
        assert "\n" not in said
        return
    assert all(0 <= token < TINY.n_vocab for token in completion.tokens)
    if completion.finish_reason != "stop_string":
        assert completion.text == model.tokenizer.decode(completion.tokens)
