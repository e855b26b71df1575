"""OpenAI's own Python client, which does not know that it speaks to another server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt.serving.settings import ServeSettings
from held_steps import HeldSteps
from serving import RunningServer, running, wait_until

MODEL = "tiny-int8"


@pytest.fixture(scope="module")
def sdk(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def text_of(gpt2: GPT2, seed: int, length: int = 8) -> str:
    return gpt2.generate("ab", SamplingParams(seed=seed), Stopping(length)).text


def test_completions(sdk: OpenAI, gpt2: GPT2) -> None:
    found = sdk.completions.create(model=MODEL, prompt="ab", seed=4, max_tokens=8, logprobs=2)
    assert found.choices[0].text == text_of(gpt2, 4)
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert found.usage.completion_tokens == 8
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or ()) == len(logprobs.token_logprobs or ()) == 8


def test_streams(sdk: OpenAI, gpt2: GPT2) -> None:
    with sdk.completions.create(
        model=MODEL,
        prompt="ab",
        seed=4,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        parts = list(stream)
    assert "".join(part.choices[0].text for part in parts if part.choices) == text_of(gpt2, 4)
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens == 8


def test_a_stream_that_is_left_frees_its_slot(sdk: OpenAI, server: RunningServer) -> None:
    stream = sdk.completions.create(model=MODEL, prompt="ab", max_tokens=40, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: server.service.in_flight == 0)


def test_many_at_a_time(server: RunningServer, gpt2: GPT2) -> None:
    async def main() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:

            async def one(seed: int) -> str:
                settings: dict[str, Any] = {"seed": seed, "max_tokens": 8, "prompt": "ab"}
                if seed % 2:
                    found = await client.completions.create(model=MODEL, **settings)
                    return str(found.choices[0].text)
                stream = await client.completions.create(model=MODEL, stream=True, **settings)
                return "".join([part.choices[0].text async for part in stream])

            return await asyncio.gather(*(one(seed) for seed in range(20)))

    assert asyncio.run(main()) == [text_of(gpt2, seed) for seed in range(20)]


def test_our_own_settings_go_as_extra_body(sdk: OpenAI, gpt2: GPT2) -> None:
    found = sdk.completions.create(
        model=MODEL, prompt="ab", seed=4, max_tokens=8, extra_body={"top_k": 3, "min_p": 0.01}
    )
    params = SamplingParams(seed=4, top_k=3, min_p=0.01)
    assert found.choices[0].text == gpt2.generate("ab", params, Stopping(8)).text


def test_embeddings(sdk: OpenAI, gpt2: GPT2) -> None:
    found = sdk.embeddings.create(model=MODEL, input=["ab", "cd e"])  # the client asks for base64
    for one, text in zip(found.data, ["ab", "cd e"], strict=True):
        wanted = gpt2.embed(text, EmbedParams(by="text", normalize=True)).vectors[0]
        np.testing.assert_array_equal(np.array(one.embedding, np.float32), wanted)


def test_models(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny-int8", "tiny-fp32"]
    assert sdk.models.retrieve("tiny-fp32").id == "tiny-fp32"


def test_a_schema_is_kept(sdk: OpenAI) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    found = sdk.completions.create(
        model=MODEL,
        prompt="a",
        seed=1,
        max_tokens=40,
        extra_body={
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": schema},
            }
        },
    )
    assert found.choices[0].text.startswith('{"a":')


def test_errors_are_the_clients_own_kinds(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny-fp32"):
        sdk.completions.create(model="nobody", prompt="ab")
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.completions.create(model=MODEL, prompt=[1] * 49)
    assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError) as unprocessable:
        sdk.completions.create(model=MODEL, prompt="a", n=10**9)
    assert unprocessable.value.param == "n"
    with pytest.raises(openai.BadRequestError) as no_chat:
        sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a"}])
    assert no_chat.value.code == "no_chat_template"


def test_a_key_is_shown(serve_settings: ServeSettings) -> None:
    with running(replace(serve_settings, keys=("secret",))) as server:
        for key, right in (("secret", True), ("wrong", False)):
            with OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
                if right:
                    assert client.completions.create(model=MODEL, prompt="a", max_tokens=1)
                else:
                    with pytest.raises(openai.AuthenticationError):
                        client.models.list()


@pytest.mark.slow  # the client waits half a second and more
def test_the_client_comes_again_when_the_queue_was_full(
    serve_settings: ServeSettings, steps: HeldSteps
) -> None:
    told: list[int] = []

    def leave(answer: Any) -> None:
        """The text that was in the way ends when the queue was full."""
        told.append(answer.status_code)
        stream.close()
        steps.allow()

    waiting = openai.DefaultHttpxClient(event_hooks={"response": [leave]})
    with running(replace(serve_settings, slots=1, queue=0)) as server:
        base = f"{server.url}/v1"
        with (
            OpenAI(base_url=base, api_key="x", max_retries=0) as hasty,
            OpenAI(base_url=base, api_key="x", max_retries=5, http_client=waiting) as patient,
        ):
            steps.allow(1)
            stream = hasty.completions.create(
                model=MODEL, prompt="a", seed=1, max_tokens=40, stream=True
            )
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as raised:
                hasty.completions.create(model=MODEL, prompt="a", max_tokens=1)
            assert int(raised.value.response.headers["retry-after"]) >= 1
            assert patient.completions.create(model=MODEL, prompt="a", max_tokens=1)
            assert (told[0], told[-1]) == (429, 200)
