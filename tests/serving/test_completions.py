"""`/v1/completions` gives the library's texts, whole and in parts, in OpenAI's form."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt import GPT2, Completion, Passage, Request, SamplingParams, Stopping

PATH = "/v1/completions"


def post(client: TestClient, **body: Any) -> Any:
    answer = client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client: TestClient, **body: Any) -> list[Any]:
    """The events of a stream, which ends with `[DONE]`."""
    with client.stream("POST", PATH, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        parts = answer.read().decode("ascii").split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def joined(parts: list[Any]) -> dict[int, str]:
    """The text of each choice of a stream."""
    texts: dict[int, str] = {}
    for part in parts:
        for choice in part["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def library(
    gpt2: GPT2, prompts: list[Any], params: SamplingParams, length: int
) -> list[Completion]:
    requests = [
        Request(prompt, params, Stopping(length), sample=sample, logprobs=True)
        for sample, prompt in enumerate(prompts)
    ]
    found = [p.completion for p in gpt2.run(requests) if p.completion is not None]
    return sorted(found, key=lambda completion: completion.sample)


def test_texts_are_the_librarys_for_the_same_seed(client: TestClient, gpt2: GPT2) -> None:
    body = {"prompt": ["ab", "cde"], "n": 2, "seed": 5, "top_k": 50, "max_tokens": 9}
    params = SamplingParams(top_k=50, seed=5)
    wanted = gpt2.generate_batch(["ab", "ab", "cde", "cde"], params, Stopping(9))
    found = post(client, **body)
    assert [choice["text"] for choice in found["choices"]] == [one.text for one in wanted]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert joined(events(client, **body)) == dict(enumerate(one.text for one in wanted))


@settings(max_examples=15)
@given(
    prompt=st.one_of(
        st.none(),
        st.text("ab é€😀", min_size=1, max_size=8),
        st.lists(st.integers(0, 299), min_size=1, max_size=8),
    ),
    seed=st.integers(0, 2**64 - 1),
    n=st.integers(1, 3),
    stop=st.one_of(st.none(), st.text("ab�", min_size=1, max_size=2)),
    echo=st.booleans(),
    logprobs=st.one_of(st.none(), st.integers(0, 2)),
    tokens=st.booleans(),
)
def test_a_stream_joined_is_the_whole_answer(
    client: TestClient,
    prompt: Any,
    seed: int,
    n: int,
    stop: str | None,
    echo: bool,
    logprobs: int | None,
    tokens: bool,
) -> None:
    body = {
        "prompt": prompt,
        "seed": seed,
        "n": n,
        "stop": stop,
        "echo": echo,
        "max_tokens": 12,
        "logprobs": logprobs,
        "return_tokens": tokens,
    }
    whole = post(client, **body)
    parts = events(client, **body, stream_options={"include_usage": True})
    assert parts[-1]["usage"] | {"prompt_tokens_details": 0} == whole["usage"] | {
        "prompt_tokens_details": 0  # the second one finds the prompt in the cache
    }
    assert parts[-1]["choices"] == []
    texts = joined(parts)
    for choice in whole["choices"]:
        mine = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        assert texts[choice["index"]] == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert mine[-1]["stop_details"] == choice["stop_details"]
        assert all(part["finish_reason"] is None for part in mine[:-1])
        if tokens:
            assert [t for part in mine for t in part["tokens"]] == choice["tokens"]
        for name in choice["logprobs"] or ():
            assert [v for p in mine for v in p["logprobs"][name]] == choice["logprobs"][name]


@pytest.mark.parametrize(
    ("fields", "reason", "details"),
    [
        ({"max_tokens": 2}, "length", ["length", None]),
        ({"prompt": [3] * 46, "max_tokens": 99}, "length", ["context", None]),
        ({"logit_bias": {"299": 100}}, "stop", ["end_of_text", 299]),
        ({"logit_bias": {"65": 100}, "stop_token_ids": [65]}, "stop", ["stop_token", 65]),
        ({"logit_bias": {"65": 100}, "stop": ["x", "bb"]}, "stop", ["stop_string", "bb"]),
        ({"response_format": {"type": "regex", "regex": "[0-9]{2}"}}, "stop", ["complete", None]),
    ],
)
def test_why_a_text_ended(
    client: TestClient, fields: dict[str, Any], reason: str, details: list[Any]
) -> None:
    (choice,) = post(client, seed=1, **fields)["choices"]
    assert choice["finish_reason"] == reason
    assert list(choice["stop_details"].values()) == details


def test_best_of_tells_the_likeliest_per_token(client: TestClient, gpt2: GPT2) -> None:
    prompts = [*["ab"] * 5, *["c"] * 5]
    every = library(gpt2, prompts, SamplingParams(seed=3), 6)
    body = {"prompt": ["ab", "c"], "best_of": 5, "n": 2, "seed": 3, "max_tokens": 6}
    found = post(client, **body)

    def mean(one: Completion) -> float:
        return float(np.mean(one.logprobs)) if one.logprobs else -math.inf

    wanted = [
        one.text
        for group in (every[:5], every[5:])
        for one in sorted(group, key=mean, reverse=True)[:2]
    ]
    assert [choice["text"] for choice in found["choices"]] == wanted
    assert all(choice["logprobs"] is None for choice in found["choices"])
    assert found["usage"]["completion_tokens"] == sum(len(one.tokens) for one in every)


def test_usage_counts_a_prompt_once_and_every_new_token(client: TestClient, gpt2: GPT2) -> None:
    every = library(gpt2, ["ab", "ab", "c", "c"], SamplingParams(seed=3), 6)
    usage = post(client, prompt=["ab", "c"], n=2, seed=3, max_tokens=6)["usage"]
    new = sum(len(one.tokens) for one in every)
    assert usage["prompt_tokens"] == len(every[0].prompt_tokens) + len(every[2].prompt_tokens)
    assert usage["completion_tokens"] == new
    assert usage["total_tokens"] == usage["prompt_tokens"] + new


def test_cached_tokens_are_told(client: TestClient) -> None:
    prompt = [*range(200, 240)]
    for cached in (0, 32):  # a block
        usage = post(client, prompt=prompt, max_tokens=1)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == cached


# ---- log-probabilities and echo


def test_logprobs_are_the_scores_of_the_tokens(client: TestClient, gpt2: GPT2) -> None:
    """The oracle is the scorer, which reads prompt and text as one passage."""
    (choice,) = post(client, prompt="ab", seed=2, max_tokens=7, echo=True, logprobs=3)["choices"]
    told = choice["logprobs"]
    (one,) = library(gpt2, ["ab"], SamplingParams(seed=2), 7)
    every = (*one.prompt_tokens, *one.tokens)
    (scores,) = gpt2.score_tokens([Passage(every)], top=3)
    assert told["token_logprobs"][0] is None
    np.testing.assert_allclose(told["token_logprobs"][1:], scores.logprobs, atol=1e-5)
    for best, logprobs in zip(told["top_logprobs"][1:], scores.top_logprobs, strict=True):
        np.testing.assert_allclose(list(best.values())[:3], logprobs, atol=1e-5)
    assert choice["text"] == "ab" + one.text


def test_tokens_lie_where_their_offsets_say(client: TestClient) -> None:
    """Also those that are part of a character, which are told by their bytes."""
    body = {"prompt": "aé€", "seed": 2, "max_tokens": 3, "logprobs": 0, "echo": True}
    (choice,) = post(client, **body, logit_bias={"64": 100})["choices"]
    told = choice["logprobs"]
    assert told["tokens"] == ["a", *_bytes("é"), *_bytes("€"), "a", "a", "a"]
    assert told["text_offset"] == [0, 1, 1, 2, 2, 2, 3, 4, 5]
    assert choice["text"] == "aé€aaa"


def _bytes(character: str) -> list[str]:
    return [f"bytes:\\x{byte:02x}" for byte in character.encode()]


def test_return_tokens_tells_ids_and_alternatives(client: TestClient, gpt2: GPT2) -> None:
    body = {"prompt": "ab", "seed": 2, "max_tokens": 5, "return_tokens": True, "top_logprobs": 2}
    (choice,) = post(client, **body)["choices"]
    (one,) = library(gpt2, ["ab"], SamplingParams(seed=2), 5)
    assert [token["id"] for token in choice["tokens"]] == list(one.tokens)
    assert [token["logprob"] for token in choice["tokens"]] == list(one.logprobs or ())
    assert "".join(token["text"] for token in choice["tokens"]) == "".join(
        gpt2.tokenizer.decode([token]) for token in one.tokens
    )
    for number, token in enumerate(choice["tokens"]):
        (best,) = gpt2.score_tokens(
            [Passage((*one.prompt_tokens, *one.tokens[: number + 1]))], top=2
        )
        assert [other["id"] for other in token["top"]] == best.top_ids[-1].tolist()


def test_a_text_goes_on_from_an_alternative(client: TestClient) -> None:
    """What the page does by a click: the ids so far and the other one are the next prompt."""
    body = {"prompt": "ab", "seed": 2, "max_tokens": 1, "return_tokens": True, "top_logprobs": 1}
    (choice,) = post(client, **body, echo=True)["choices"]
    ids = [token["id"] for token in choice["tokens"][:-1]]
    other = choice["tokens"][-1]["top"][0]["id"]
    (greedy,) = post(client, prompt="ab", temperature=0, max_tokens=4, return_tokens=True)[
        "choices"
    ]
    (found,) = post(client, prompt=[*ids, other], temperature=0, max_tokens=3, return_tokens=True)[
        "choices"
    ]
    assert [t["id"] for t in found["tokens"]] == [t["id"] for t in greedy["tokens"]][1:]


def test_no_new_tokens_is_the_prompt_and_its_scores(client: TestClient, gpt2: GPT2) -> None:
    body = {"prompt": ["abc", "d"], "max_tokens": 0, "echo": True, "logprobs": 1}
    found = post(client, **body)
    assert [choice["text"] for choice in found["choices"]] == ["abc", "d"]
    assert found["choices"][1]["logprobs"]["token_logprobs"] == [None]
    score = gpt2.score("abc", bos=None)
    np.testing.assert_allclose(
        found["choices"][0]["logprobs"]["token_logprobs"][1:],
        [token.logprob for token in score.scored],
        atol=1e-6,
    )
    assert found["usage"]["completion_tokens"] == 0
    assert found["usage"]["prompt_tokens"] == len(score.tokens) + 1
    assert joined(events(client, **body)) == {0: "abc", 1: "d"}


@pytest.mark.parametrize(("prompt", "shown"), [(None, ""), ([64, 65], "ab"), ("ab", "ab")])
def test_echo_is_the_prompt_as_text(client: TestClient, prompt: Any, shown: str) -> None:
    plain = post(client, prompt=prompt, seed=1)["choices"][0]["text"]
    assert post(client, prompt=prompt, seed=1, echo=True)["choices"][0]["text"] == shown + plain


# ---- the form of answers


def test_the_form_of_an_answer(client: TestClient, gpt2: GPT2) -> None:
    found = post(client, prompt="ab", max_tokens=1)
    assert found["object"] == "text_completion"
    assert found["model"] == gpt2.name
    assert found["id"].startswith("cmpl-")
    assert gpt2.bundle.digest.startswith(found["system_fingerprint"])
    again = post(client, prompt="ab", max_tokens=1, seed=found["seed"])
    assert again["choices"] == found["choices"]
    assert again["id"] != found["id"]


def test_events_share_their_answers_id(client: TestClient) -> None:
    parts = events(client, prompt="ab", n=2, stream_options={"include_usage": True})
    assert len({part["id"] for part in parts}) == 1
    assert [part["usage"] is None for part in parts] == [True] * (len(parts) - 1) + [False]
    assert "usage" not in events(client, prompt="ab")[0]


def test_the_named_model_answers(client: TestClient) -> None:
    for name in ("tiny-int8", "tiny-fp32"):
        assert post(client, model=name, max_tokens=1)["model"] == name


# ---- errors

Q = {"type": "regex", "regex": "q"}  # which no token can begin where none is repeated
WRONG: list[tuple[int, str | None, str, dict[str, Any]]] = [
    (404, None, "model_not_found", {"model": "nobody"}),
    (400, "prompt", "context_length_exceeded", {"prompt": [1] * 49}),
    (400, "prompt", "bad_text", {"prompt": ""}),
    (400, "prompt", "bad_text", {"prompt": "\ud800"}),
    (400, "prompt", "invalid_value", {"prompt": [300]}),
    (400, "logit_bias", "invalid_value", {"logit_bias": {"300": 1}}),
    (400, "stop_token_ids", "invalid_value", {"stop_token_ids": [300]}),
    (400, "min_tokens", "invalid_value", {"min_tokens": 20}),
    (400, None, "invalid_value", {"prompt": "q", "no_repeat_ngram": 1, "response_format": Q}),
    (400, "response_format", "invalid_value", {"response_format": {"type": "regex", "regex": "("}}),
    (400, "suffix", "invalid_value", {"suffix": "x"}),
    (400, "n", "invalid_value", {"n": 9}),
    (400, "max_tokens", "invalid_value", {"max_tokens": 0}),
    (422, "n", "less_than_equal", {"n": 10**9}),
    (422, "temperature", "finite_number", {"temperature": math.nan}),
    (422, "stop", "too_long", {"stop": ["a"] * 5000}),
    (422, "prompt.1", "string_type", {"prompt": ["a", 1]}),
    (422, "prompt", "too_short", {"prompt": []}),
    (422, "frobnicate", "extra_forbidden", {"frobnicate": 1}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "param", "code", "body"), WRONG, ids=lambda v: str(v)[:40])
def test_errors_have_their_status_and_say_what_is_wrong(
    client: TestClient,
    stream: bool,
    status: int,
    param: str | None,
    code: str,
    body: dict[str, Any],
) -> None:
    text = json.dumps({**body, "stream": stream})  # NaN and half a surrogate pair as they are
    answer = client.post(PATH, content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param or "")
    assert code in error["code"]
    assert error["message"]


def test_an_unknown_model_is_told_which_there_are(client: TestClient) -> None:
    message = client.post(PATH, json={"model": "nobody"}).json()["error"]["message"]
    assert "tiny-int8" in message
    assert "tiny-fp32" in message


def test_a_prompt_beyond_the_context_is_told_the_numbers(client: TestClient) -> None:
    message = client.post(PATH, json={"prompt": [1] * 49}).json()["error"]["message"]
    assert "49" in message
    assert "48" in message
    post(client, prompt=[1] * 49, truncate="left")
