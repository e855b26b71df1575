"""`/v1/score` tells what the library finds, in the words of `gpt2rt score --json`."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from command_line import Command
from gpt2rt import GPT2
from serving import fault

PATH = "/v1/score"
TEXT = "ab cd é"


def score(client: TestClient, **body: Any) -> Any:
    answer = client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("unit", ["token", "word"])
def test_scores_are_those_of_the_command_line(
    client: TestClient, gpt2: GPT2, command: Command, unit: str
) -> None:
    more = ("--top", "2") if unit == "token" else ()
    model = ("--model", gpt2.bundle.directory)
    wanted = command("score", TEXT, *model, "--json", "--by", unit, *more).records
    (told,) = score(client, text=TEXT, top=2)["data"]
    assert len(told[f"{unit}s"]) == len(wanted)
    for its, record in zip(told[f"{unit}s"], wanted, strict=True):
        both = set(its) & set(record)
        assert {"text", "bits", "start", "end"} <= both
        assert {name: its[name] for name in both} == {name: record[name] for name in both}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bos": None},
        {"bos": 64},
        {"bos": "a"},
        {"context": "c"},
        {"boundary": "trailing"},
        {"window": 6, "stride": 3},
        {"special": True},
    ],
    ids=str,
)
def test_every_setting_reaches_the_library(
    client: TestClient, gpt2: GPT2, settings: dict[str, Any]
) -> None:
    wanted = gpt2.score(TEXT, **settings)
    (told,) = score(client, text=TEXT, **settings)["data"]
    assert [token["rank"] for token in told["tokens"]] == [token.rank for token in wanted.tokens]
    assert told["totals"]["bits"] == pytest.approx(wanted.bits, abs=1e-9)
    assert told["bos"] == wanted.bos


def test_texts_are_scored_each_by_itself(client: TestClient) -> None:
    found = score(client, texts=[TEXT, "c"])
    alone = [score(client, text=text)["data"][0] for text in (TEXT, "c")]
    assert found["data"] == [{**one, "index": number} for number, one in enumerate(alone)]
    count = sum(len(one["tokens"]) for one in alone)
    assert found["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_what_is_not_known_is_null(client: TestClient) -> None:
    (told,) = score(client, text="a", bos=None)["data"]
    assert (told["tokens"][0]["logprob"], told["tokens"][0]["rank"]) == (None, None)
    assert told["totals"]["perplexity"] is None


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_value", "text"),
        ({"text": "a", "texts": ["b"]}, "invalid_value", "text"),
        ({"text": ""}, "bad_text", "text"),
        ({"texts": ["a", ""]}, "bad_text", "texts"),
        ({"text": "a" * 200}, "context_length_exceeded", "text"),
        ({"text": "a", "window": 49}, "invalid_value", "window"),
        ({"text": "a", "stride": 49}, "invalid_value", "stride"),
        ({"text": "a", "bos": 300}, "invalid_value", "bos"),
        ({"text": "a" * 131_073}, "too_long", "text"),
        ({"texts": ["a" * 10_000], "top": 20}, "too_long", "texts"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_scored(
    client: TestClient, body: dict[str, Any], code: str, param: str | None
) -> None:
    answer = client.post(PATH, json=body)
    assert fault(answer) == (400, code)
    assert answer.json()["error"]["param"] == param
