"""What a client may send: defaults as the library's, limits, and nothing that is not listed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from gpt2rt import SamplingParams
from gpt2rt.serving.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    ScoreBody,
    TokenizeBody,
)

BODIES: dict[type[BaseModel], dict[str, Any]] = {
    CompletionBody: {},
    ChatBody: {"messages": [{"role": "user", "content": "a"}]},
    ScoreBody: {},
    EmbeddingBody: {"input": "a"},
    TokenizeBody: {"text": "a"},
    DetokenizeBody: {"tokens": [1]},
}

WRONG: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (CompletionBody, {"prompt": 5}),
    (CompletionBody, {"prompt": []}),
    (CompletionBody, {"prompt": [[]]}),
    (CompletionBody, {"prompt": ["a", 1]}),
    (CompletionBody, {"prompt": [-1]}),
    (CompletionBody, {"prompt": [True]}),
    (CompletionBody, {"prompt": [1.5]}),
    (CompletionBody, {"prompt": [10**30]}),
    (CompletionBody, {"prompt": ["a"] * 257}),
    (CompletionBody, {"n": 0}),
    (CompletionBody, {"n": 10**9}),
    (CompletionBody, {"n": True}),
    (CompletionBody, {"n": "1"}),
    (CompletionBody, {"max_tokens": -1}),
    (CompletionBody, {"temperature": math.nan}),
    (CompletionBody, {"temperature": math.inf}),
    (CompletionBody, {"temperature": -0.1}),
    (CompletionBody, {"temperature": "1"}),
    (CompletionBody, {"top_p": 0}),
    (CompletionBody, {"top_p": 1.01}),
    (CompletionBody, {"seed": -1}),
    (CompletionBody, {"seed": 1 << 64}),
    (CompletionBody, {"logprobs": 6}),
    (CompletionBody, {"top_logprobs": 21}),
    (CompletionBody, {"stop": ""}),
    (CompletionBody, {"stop": ["a"] * 17}),
    (CompletionBody, {"stop": [1]}),
    (CompletionBody, {"logit_bias": {"a": 1}}),
    (CompletionBody, {"logit_bias": {"01": 1}}),
    (CompletionBody, {"logit_bias": {"1": 101}}),
    (CompletionBody, {"logit_bias": {"1": math.nan}}),
    (CompletionBody, {"logit_bias": {str(n): 1 for n in range(1025)}}),
    (CompletionBody, {"response_format": {"type": "xml"}}),
    (CompletionBody, {"response_format": {"type": "json_schema"}}),
    (CompletionBody, {"truncate": "middle"}),
    (CompletionBody, {"stream": 1}),
    (CompletionBody, {"stream_options": {"usage": True}}),
    (ChatBody, {"messages": []}),
    (ChatBody, {"messages": [{"role": "tool", "content": "a"}]}),
    (ChatBody, {"messages": [{"role": "user"}]}),
    (ChatBody, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    (ChatBody, {"max_completion_tokens": 0}),
    (ScoreBody, {"texts": []}),
    (ScoreBody, {"boundary": "middle"}),
    (ScoreBody, {"window": 0}),
    (EmbeddingBody, {"input": None}),
    (EmbeddingBody, {"by": "line"}),
    (EmbeddingBody, {"encoding_format": "int8"}),
    (TokenizeBody, {"text": "a" * 131_073}),
    (DetokenizeBody, {"tokens": "abc"}),
]


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_fields_that_are_not_listed_are_errors(kind: type[BaseModel]) -> None:
    kind.model_validate(BODIES[kind])
    with pytest.raises(ValidationError, match="temprature"):
        kind.model_validate({**BODIES[kind], "temprature": 1})


@pytest.mark.parametrize(("kind", "fields"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_beyond_the_limits_is_an_error_of_its_field(
    kind: type[BaseModel], fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as raised:
        kind.model_validate({**BODIES[kind], **fields})
    assert {error["loc"][0] for error in raised.value.errors()} == set(fields)


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_null_is_the_default_wherever_there_is_one(kind: type[BaseModel]) -> None:
    nulls = {name: None for name, field in kind.model_fields.items() if not field.is_required()}
    kind.model_validate({**nulls, **BODIES[kind]})


def test_a_whole_number_may_have_a_point() -> None:
    """JavaScript and JSON Schema know one kind of number."""
    fields = {"n": 2.0, "seed": 1e3, "prompt": [[1.0, 2]], "temperature": 1}
    body = CompletionBody.model_validate(fields)
    assert (body.n, body.seed, body.prompt, body.temperature) == (2, 1000, [[1, 2]], 1.0)
    assert type(body.n) is int


def test_what_is_wrong_many_times_is_told_once() -> None:
    """Half a million errors would take seconds, in which the server does nothing else."""
    many = 100_000
    for kind, fields in (
        (CompletionBody, {"prompt": [-1] * many}),
        (CompletionBody, {"prompt": [[]] * many}),
        (CompletionBody, {"prompt": ["a"] * many}),
        (CompletionBody, {"stop": [1] * many}),
        (CompletionBody, {"logit_bias": {f"{n}a": 1 for n in range(many)}}),
        (CompletionBody, {f"a{n}": 1 for n in range(many)}),
        (CompletionBody, {"stream_options": {f"a{n}": 1 for n in range(many)}}),
        (ChatBody, {"messages": [{}] * many}),
        (ScoreBody, {"texts": [1] * many}),
        (EmbeddingBody, {"input": [True] * many}),
        (DetokenizeBody, {"tokens": [-1] * many}),
    ):
        with pytest.raises(ValidationError) as raised:
            kind.model_validate({**BODIES[kind], **fields})
        assert raised.value.error_count() < 10


def test_the_defaults_of_drawing_are_the_librarys() -> None:
    body, params = CompletionBody.model_validate({}), SamplingParams()
    for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty"):
        assert getattr(body, name) == getattr(params, name)


def test_every_setting_is_described() -> None:
    """The page shows these descriptions."""
    properties = json.loads(json.dumps(CompletionBody.model_json_schema()))["properties"]
    assert [name for name, field in properties.items() if "description" not in field] == [
        "stream_options"
    ]
