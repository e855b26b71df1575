"""Requests made up from the OpenAPI description, right and wrong ones, at every endpoint.

Every answer has to be a documented one, in its documented form, and whatever does not fit the
description has to be refused.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import BaseSchema, Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from serving import RunningServer

OPERATIONS = [
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/score"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
]


@pytest.fixture(scope="module")
def described(server: RunningServer) -> BaseSchema:
    refused = {"expected-statuses": [400, 404, 413, 422]}
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": refused}})
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)


def test_no_operation_is_left_out(described: BaseSchema) -> None:
    found = [result.ok() for result in described.get_all_operations()]  # type: ignore[union-attr]
    assert sorted((one.method.upper(), one.path) for one in found) == sorted(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (method, path, mode)
        for method, path in OPERATIONS
        for mode in GenerationMode
        if (method, mode) != ("GET", GenerationMode.NEGATIVE)  # all that can be asked is right
    ],
)
def test_every_answer_is_a_documented_one(
    described: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    operation = described[path][method]

    @settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case[Any]) -> None:
        # A description does not say that a prompt fits the context, or which formats make sense.
        answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        assert (mode, answer.status_code) != (GenerationMode.POSITIVE, 422)

    check()
