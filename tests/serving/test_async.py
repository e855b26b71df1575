"""`AsyncGPT2`: texts side by side, each as it would be alone; scores and vectors, too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from async_models import LONG, PARAMS, TEN, is_empty, joined, opened, requests, until
from gpt2rt import GPT2, EmbedParams, Passage, Request
from gpt2rt.errors import BadText
from held_steps import HeldSteps


def test_texts_are_those_of_the_library(path: Path, gpt2: GPT2) -> None:
    prompts = ["a", "bc", None, (1, 2, 3), "bc"]

    async def check() -> None:
        async with opened(path, slots=3) as model:
            found = await model.generate_batch(prompts, PARAMS, TEN)
            alone = gpt2.generate_batch(prompts, PARAMS, TEN)
            assert [one.text for one in found] == [one.text for one in alone]
            streams = [model.stream(prompt, PARAMS, TEN) for prompt in prompts]
            texts = await asyncio.gather(*(joined(stream) for stream in streams))
            assert texts == ["".join(gpt2.stream(prompt, PARAMS, TEN)) for prompt in prompts]
            assert (await model.generate("a", PARAMS, TEN)).tokens == found[0].tokens

    asyncio.run(check())


def test_texts_run_side_by_side(path: Path, steps: HeldSteps) -> None:
    async def check() -> None:
        async with opened(path, slots=8) as model:
            texts = asyncio.gather(*(model.generate("a", PARAMS, TEN) for _ in range(8)))
            counts = model.model.batch
            await until(lambda: counts.statistics.running + counts.statistics.queued == 8)
            steps.allow()
            await texts
            assert model.model.batch.statistics.steps < 30  # one after the other: 80

    asyncio.run(check())


def test_more_requests_than_slots_and_queue(path: Path) -> None:
    """A call has a place for all its requests; a generator of them is read as slots become free."""
    given: list[int] = []

    def generator() -> Iterator[Request]:
        for request in requests(20):
            given.append(request.sample)
            yield request

    async def check() -> None:
        async with opened(path, slots=2, queue=0) as model, aclosing(model.run(generator())) as run:
            done: list[int] = []
            async for pieces in run:
                done += [piece.sample for piece in pieces if piece.completion]
                assert len(given) <= len(done) + 3
        assert sorted(done) == [*range(20)]

    asyncio.run(check())


def test_a_list_a_step_has_the_pieces_of_all_its_texts(path: Path) -> None:
    async def check() -> None:
        async with opened(path) as model:
            steps = [step async for step in model.run(requests(4))]
            texts = [""] * 4
            for piece in (piece for step in steps for piece in step):
                texts[piece.sample] += piece.text
            alone = model.model.run(requests(4))
            done = {piece.sample: piece.completion for piece in alone if piece.completion}
            assert texts == [done[sample].text for sample in range(4)]
            assert len(steps) < 20

    asyncio.run(check())


def test_the_blocking_methods_share_the_batch(path: Path) -> None:
    async def check() -> None:
        async with opened(path, slots=4) as model:
            blocking = asyncio.to_thread(model.model.generate, "a", PARAMS, LONG)
            one, other = await asyncio.gather(blocking, model.generate("a", PARAMS, LONG))
            assert one.tokens == other.tokens
            await is_empty(model)

    asyncio.run(check())


# ---- scoring and embedding


def test_scores_and_vectors_are_those_of_the_library(path: Path, gpt2: GPT2) -> None:
    async def check() -> None:
        async with opened(path) as model:
            texts = asyncio.create_task(model.generate_batch(["a"] * 4, PARAMS, LONG))
            score = await model.score("a small boat", top=2)
            assert score == gpt2.score("a small boat", top=2)
            passage = Passage((1, 2, 3, 4))
            (tokens,) = await model.score_tokens([passage])
            (wanted,) = gpt2.score_tokens([passage])
            np.testing.assert_array_equal(tokens.logprobs, wanted.logprobs)
            found = await model.embed("a b", EmbedParams(layer=1))
            np.testing.assert_array_equal(
                found.vectors, gpt2.embed("a b", EmbedParams(layer=1)).vectors
            )
            with pytest.raises(BadText):
                await model.score("")
            assert len(await texts) == 4

    asyncio.run(check())
