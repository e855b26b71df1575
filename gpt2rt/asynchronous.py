"""The loaded model for asyncio programs: `AsyncGPT2`, whose texts share one batch.

from gpt2rt import AsyncGPT2

async with await AsyncGPT2.load("117M-int8") as model:
    async for text in model.stream("The meaning of life is"):
        print(text, end="")
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Hashable, Iterable
from typing import TYPE_CHECKING, Any

from gpt2rt.engine.providers import AUTO
from gpt2rt.generation.completion import Completion, Piece
from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import Stopping
from gpt2rt.model import GPT2, PREFIX_BYTES
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.scoring.embeddings import Embedding, EmbedParams
from gpt2rt.scoring.score import Score
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.text.prompts import Prompt, Truncate

if TYPE_CHECKING:
    from gpt2rt.sampling.constraint import Constraint

SLOTS = 32
QUEUE = 256
BUDGET = 64


class AsyncGPT2:
    """A `GPT2` for asyncio programs: methods of the same names, to be awaited."""

    def __init__(
        self, model: GPT2, *, slots: int = SLOTS, queue: int = QUEUE, budget: int = BUDGET
    ) -> None:
        self.model = model
        self.slots = slots
        self.queue = queue

    @classmethod
    async def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        provider: str = AUTO,
        draft: str | os.PathLike[str] | None = None,
        prefix_bytes: int = PREFIX_BYTES,
        slots: int = SLOTS,
        queue: int = QUEUE,
    ) -> AsyncGPT2:
        loaded = await asyncio.to_thread(
            GPT2.load,
            model,
            threads=threads,
            provider=provider,
            draft=draft,
            prefix_bytes=prefix_bytes,
        )
        return cls(loaded, slots=slots, queue=queue)

    async def run(
        self, requests: Iterable[Request], *, owner: Hashable = None
    ) -> AsyncGenerator[list[Piece], None]:
        pieces = self.model.run(requests, batch_size=self.slots)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield [piece]

    async def generate(
        self,
        prompt: Prompt = None,
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
    ) -> Completion:
        request = Request(prompt, params, stopping, constraint, truncate, special=special)
        async for pieces in self.run([request]):
            for piece in pieces:
                if piece.failure is not None:
                    raise piece.failure
                if piece.completion is not None:
                    return piece.completion
        raise AssertionError("no last piece")

    async def score(self, text: str, **settings: Any) -> Score:
        return (await self.score_batch([text], **settings))[0]

    async def score_batch(self, texts: Iterable[str], **settings: Any) -> list[Score]:
        return await asyncio.to_thread(lambda: list(self.model.score_batch(texts, **settings)))

    async def score_tokens(self, passages: Iterable[Passage], *, top: int = 0) -> list[TokenScores]:
        return await asyncio.to_thread(lambda: list(self.model.score_tokens(passages, top=top)))

    async def embed(self, text: str, params: EmbedParams = EmbedParams()) -> Embedding:
        return (await self.embed_batch([text], params))[0]

    async def embed_batch(
        self, texts: Iterable[str], params: EmbedParams = EmbedParams()
    ) -> list[Embedding]:
        return await asyncio.to_thread(lambda: list(self.model.embed_batch(texts, params)))

    async def aclose(self) -> None:
        self.model.close()

    async def __aenter__(self) -> AsyncGPT2:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()
