"""`POST /v1/completions`: texts continued, as OpenAI's API has it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, NotRequired

from fastapi import APIRouter, Depends, Request, Response

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.generation.completion import Piece
from gpt2rt.serving.bodies import CompletionBody
from gpt2rt.serving.echoes import with_echoes
from gpt2rt.serving.events import EVENT
from gpt2rt.serving.replies import (
    Ending,
    Envelope,
    Reply,
    ReplyForm,
    Usage,
    answer,
    ending,
)
from gpt2rt.serving.requests import WantedTexts, params_of
from gpt2rt.serving.service import Service, service_of
from gpt2rt.serving.tokens import (
    CompletionLogprobs,
    Offsets,
    ToldToken,
    completion_logprobs,
    told_tokens,
)

router = APIRouter(tags=["OpenAI"])


class ToldText(Ending):
    """A text, or the next part of it; `tokens` is there with `return_tokens`."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    tokens: NotRequired[list[ToldToken]]


class CompletionReply(Envelope):
    """The answer with all its texts: those of the first prompt, then those of the next."""

    choices: list[ToldText]
    usage: Usage


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CompletionReply,
        "content": {"text/event-stream": {"schema": EVENT}},
        "description": "The texts, or events with parts of them, the last of which is `[DONE]`.",
    }
}


@router.post("/v1/completions", summary="Continue texts", responses=ANSWERS)
async def complete(
    body: CompletionBody, request: Request, service: Service = Depends(service_of)
) -> Response:
    """Each text is that of the library for the same seed and sample number."""
    wanted = WantedTexts.completions(body)

    async def make(model: AsyncGPT2, began: float) -> Reply:
        wanted.check(service.settings, model.model.hparams.n_ctx)
        mine = wanted
        echoed: list[tuple[Piece, ...]] = [()] * len(wanted.prompts)
        if body.echo:
            mine, echoed = await with_echoes(body, wanted, model)

        def choice(index: int, prompt: int) -> TextChoice:
            return TextChoice(index, body, model, echoed[prompt])

        return Reply(
            service=service,
            model=model,
            form=ReplyForm("cmpl", "text_completion", "text_completion", choice),
            wanted=mine,
            body=body,
            params=params_of(body),
            owner=request.state.owner,
            began=began,
        )

    return await answer(request, service, body, make)


class TextChoice:
    """A text of the answer; it counts characters, for the places of tokens."""

    def __init__(
        self, index: int, body: CompletionBody, model: AsyncGPT2, before: Seq[Piece]
    ) -> None:
        self.before = before
        self._index = index
        self._body = body
        self._tokenizer = model.model.tokenizer
        self._offsets = Offsets(self._tokenizer)

    def told(self, pieces: Seq[Piece]) -> dict[str, Any]:
        text = "".join([piece.text for piece in pieces])
        told = {"index": self._index, "text": text, "logprobs": None, **ending(pieces)}
        if self._body.logprobs is not None:
            told["logprobs"] = completion_logprobs(pieces, self._tokenizer, self._offsets)
        if self._body.return_tokens:
            told["tokens"] = told_tokens(pieces, self._tokenizer)
        return told

    def told_part(self, pieces: Seq[Piece]) -> dict[str, Any]:
        return self.told(pieces)
