"""`POST /v1/score`: the surprisal of every token and word of texts.

The fields are those of `gpt2rt score --json`.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from fastapi import APIRouter, Depends, Request, Response
from typing_extensions import TypedDict

from gpt2rt.errors import BadText, PromptTooLong
from gpt2rt.scoring.score import Boundary, Score
from gpt2rt.serving.ascii_json import large_json
from gpt2rt.serving.bodies import LONGEST_TEXT, ScoreBody
from gpt2rt.serving.events import in_time
from gpt2rt.serving.faults import Fault, fault_of
from gpt2rt.serving.replies import note
from gpt2rt.serving.service import Service, service_of

router = APIRouter(tags=["gpt2rt"])


class TextUsage(TypedDict):
    """How many tokens were read."""

    prompt_tokens: int
    total_tokens: int


class ToldAlternative(TypedDict):
    """One of the likeliest tokens at a place."""

    token: int
    text: str
    probability: float


class ToldTokenScore(TypedDict):
    """A token, its place in the text, and its score; null where no token is before it."""

    token: int
    text: str
    start: int
    end: int
    logprob: float | None
    rank: int | None
    bits: float | None
    probability: float | None
    alternatives: list[ToldAlternative]


class ToldWord(TypedDict):
    """A word, its place in the text, the range of its tokens, and its surprisal."""

    text: str
    start: int
    end: int
    first: int
    last: int
    bits: float | None


class Totals(TypedDict):
    """Measures of the whole text; null where there is nothing to measure."""

    tokens: int
    scored: int
    words: int
    bytes: int
    logprob: float | None
    bits: float | None
    perplexity: float | None
    word_perplexity: float | None
    byte_perplexity: float | None
    bits_per_byte: float | None


class ToldScore(TypedDict):
    """The score of a text."""

    index: int
    text: str
    bos: str | None
    context: str | None
    preceding: int
    window: int
    stride: int | None
    boundary: Boundary
    totals: Totals
    tokens: list[ToldTokenScore]
    words: list[ToldWord]


class ScoreReply(TypedDict):
    """The scores, in the order of the texts."""

    object: str
    model: str
    data: list[ToldScore]
    usage: TextUsage


@router.post("/v1/score", summary="Score texts", response_model=ScoreReply, operation_id="score")
async def score(
    body: ScoreBody, request: Request, service: Service = Depends(service_of)
) -> Response:
    """The surprisal of each token and word, and the perplexity of each text."""
    texts = _texts(body)
    return await in_time(request, service, _scored(texts, body, request, service))


def _texts(body: ScoreBody) -> list[str]:
    """The texts of a body. Raises `Fault` for none, both fields, or more than fit an answer."""
    if (body.text is None) == (body.texts is None):
        raise Fault(400, "give either text or texts", param="text", code="invalid_value")
    texts = [body.text] if body.text is not None else body.texts or []
    count, most = sum(map(len, texts)), LONGEST_TEXT // (1 + (body.top or 0))
    if count > most:
        raise Fault(
            400,
            f"the texts have {count:,} characters; with top {body.top or 0} at most {most:,} are "
            "scored at a time: send fewer, or a smaller top",
            param=_field(body),
            code="too_long",
        )
    return texts


def _field(body: ScoreBody) -> str:
    return "text" if body.texts is None else "texts"


async def _scored(texts: Seq[str], body: ScoreBody, request: Request, service: Service) -> Response:
    async with service.model(body.model) as model:
        try:
            found = await model.score_batch(
                texts,
                bos=body.bos,
                context=body.context,
                special=body.special,
                window=body.window,
                stride=body.stride,
                boundary=body.boundary or "leading",
                top=body.top or 0,
            )
        except (BadText, PromptTooLong) as error:
            fault = fault_of(error)
            fault.param = _field(body)
            raise fault from None
        reply = await model.aside(_reply, model.model.name, found)
        note(request, model, sum(len(one.tokens) for one in found))
        return Response(reply, media_type="application/json")


def _reply(model: str, found: Seq[Score]) -> bytes:
    count = sum(len(one.tokens) for one in found)
    return large_json(
        {
            "object": "list",
            "model": model,
            "data": [{"index": index, **one.as_dict()} for index, one in enumerate(found)],
            "usage": TextUsage(prompt_tokens=count, total_tokens=count),
        }
    )
