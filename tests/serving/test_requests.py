"""A body becomes the library's requests: the same settings, numbers and errors."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2rt import Constraint, Request, SamplingParams, Stopping
from gpt2rt.serving.bodies import ChatBody, CompletionBody
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.requests import WantedTexts, params_of
from gpt2rt.serving.settings import ServeSettings

SETTINGS = ServeSettings(slots=4, queue=8)


def requests(**fields: Any) -> list[Request]:
    body = CompletionBody(**fields)
    wanted = WantedTexts.completions(body)
    wanted.check(SETTINGS, n_ctx=48)
    return list(wanted.requests(body, params_of(body)))


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (None, [None]),
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_prompts_are_one_or_many_texts_or_ids(prompt: Any, prompts: list[Any]) -> None:
    assert [request.prompt for request in requests(prompt=prompt)] == prompts


def test_choice_i_of_prompt_j_has_its_number_and_all_share_a_seed() -> None:
    found = requests(prompt=["a", "b"], n=2, best_of=3)
    assert [(r.prompt, r.sample) for r in found] == [
        *(("a", 0), ("a", 1), ("a", 2)),
        *(("b", 3), ("b", 4), ("b", 5)),
    ]
    assert len({r.params.seed for r in found}) == 1
    assert found[0].params.seed is not None
    assert requests(seed=7)[0].params.seed == 7


def test_every_setting_reaches_the_library() -> None:
    params = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": -0.3,
        "no_repeat_ngram": 3,
        "seed": 9,
    }
    (found,) = requests(
        **params,
        prompt="a",
        min_tokens=2,
        logit_bias={"5": -100, "6": 1.5},
        max_tokens=9,
        stop=["x", "y"],
        stop_token_ids=[3],
        truncate="left",
        special=True,
        logprobs=2,
        response_format={"type": "regex", "regex": "a+"},
    )
    assert found == Request(
        "a",
        SamplingParams(**params, min_length=2, logit_bias={5: -100.0, 6: 1.5}),  # type: ignore[arg-type]
        Stopping(9, ["x", "y"], [3]),
        Constraint(regex="a+"),
        "left",
        logprobs=True,
        special=True,
        top=2,
    )


def test_null_is_the_default() -> None:
    plain = requests(seed=1)
    assert plain == requests(
        seed=1, temperature=None, n=None, max_tokens=None, stop=None, stream=None
    )
    assert plain[0].stopping.length == 16
    assert requests(stop="x")[0].stopping.strings == ("x",)


@pytest.mark.parametrize(
    ("wanted", "constraint"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Constraint(json_schema={"type": "object"})),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}},
            Constraint(json_schema={"type": "integer"}),
        ),
        ({"type": "regex", "regex": "[0-9]"}, Constraint(regex="[0-9]")),
    ],
)
def test_formats_are_constraints(wanted: dict[str, Any], constraint: Constraint | None) -> None:
    assert requests(response_format=wanted)[0].constraint == constraint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"n": 5}, "n"),
        ({"best_of": 5}, "best_of"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"prompt": ["a"] * 13}, "prompt"),
        ({"prompt": ["a"] * 4, "n": 4}, "prompt"),
    ],
)
def test_what_does_not_go_together_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as raised:
        requests(**fields)
    assert (raised.value.status, raised.value.param) == (400, param)


def test_numbers_that_fill_no_memory() -> None:
    """64 texts of a whole context with all their alternatives would take 150 MB."""
    large = ServeSettings(slots=64)
    for fields, most in (
        ({"max_tokens": 10_000, "logprobs": 5}, 1 << 19),
        ({"max_tokens": 1, "logprobs": 5, "echo": True}, 1 << 19),
        ({"max_tokens": 10_000}, 0),
    ):
        wanted = WantedTexts.completions(CompletionBody.model_validate({"n": 64, **fields}))
        wanted.check(large, n_ctx=1024)
        if most:
            with pytest.raises(Fault, match="log-probabilities"):
                wanted.check(large, n_ctx=2048)


def test_a_suffix_that_says_nothing_is_none() -> None:
    assert requests(suffix="", seed=1) == requests(suffix=None, seed=1)


def test_chat_is_as_long_as_the_context_unless_told() -> None:
    messages = [{"role": "user", "content": "a"}]
    for fields, length in (
        ({}, None),
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 4}, 4),
    ):
        body = ChatBody.model_validate({"messages": messages, **fields})
        (request,) = WantedTexts.reply(body, [1, 2]).requests(body, params_of(body))
        assert (request.prompt, request.stopping.length) == ((1, 2), length)


def test_chat_tells_likely_tokens_only_with_logprobs() -> None:
    messages = [{"role": "user", "content": "a"}]
    body = ChatBody.model_validate({"messages": messages, "top_logprobs": 2})
    with pytest.raises(Fault, match="logprobs"):
        WantedTexts.reply(body, [1])
