"""`POST /v1/embeddings`: vectors of texts, words or tokens, as OpenAI's API has those of texts."""

from __future__ import annotations

import base64
from collections.abc import Sequence as Seq
from typing import Literal, NotRequired

from fastapi import APIRouter, Depends, Request, Response
from typing_extensions import TypedDict

from gpt2rt.model import GPT2
from gpt2rt.scoring.embeddings import Embedding, EmbedParams
from gpt2rt.scoring.state_readers import Vectors
from gpt2rt.serving.ascii_json import large_json
from gpt2rt.serving.bodies import EMBEDDING, EmbeddingBody
from gpt2rt.serving.events import in_time
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.replies import note
from gpt2rt.serving.scores import TextUsage
from gpt2rt.serving.service import Service, service_of

router = APIRouter(tags=["OpenAI"])

MOST_NUMBERS = 1 << 21  # of an answer; 2,730 vectors of 768


class ToldVector(TypedDict):
    """A vector, as numbers or base64.

    With `by` word or token also their `text`, its `span` of characters, and which `input` it is in.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    input: NotRequired[int]
    text: NotRequired[str]
    span: NotRequired[list[int]]


class EmbeddingReply(TypedDict):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    model: str
    layer: int
    usage: TextUsage
    data: list[ToldVector]


@router.post(
    "/v1/embeddings",
    summary="Vectors of texts, words or tokens",
    response_model=EmbeddingReply,
    operation_id="embeddings",
)
async def embed(
    body: EmbeddingBody, request: Request, service: Service = Depends(service_of)
) -> Response:
    """Hidden states of a layer, pooled for texts and words."""
    return await in_time(request, service, _embedded(body, request, service))


async def _embedded(body: EmbeddingBody, request: Request, service: Service) -> Response:
    params = EmbedParams(
        layer=body.layer,
        by=body.by or EMBEDDING.by,
        pooling=body.pooling or EMBEDDING.pooling,
        word=body.word,
        normalize=EMBEDDING.normalize if body.normalize is None else body.normalize,
        stride=body.stride,
        special=body.special,
    )
    async with service.model(body.model) as model:
        texts, count = await model.aside(_texts, body, params, model.model)
        found = await model.embed_batch(texts, params)
        reply = await model.aside(_reply, body, params, model.model.name, found, count)
        note(request, model, count)
        return Response(reply, media_type="application/json")


def _texts(body: EmbeddingBody, params: EmbedParams, model: GPT2) -> tuple[list[str], int]:
    """The inputs as texts, and the number of their tokens.

    Raises `Fault` for ids that are no text's tokens, for vectors of another length than the
    model's, and for more than fit an answer.
    """
    width = model.hparams.n_embd
    if body.dimensions not in (None, width):
        raise Fault(
            400,
            f"dimensions is {body.dimensions}, and vectors of {model.name} have {width}: it was "
            "not trained to have them shortened; leave it out",
            param="dimensions",
            code="invalid_value",
        )
    given = body.input
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    texts, count = [], 0
    for one in inputs:
        text = one if isinstance(one, str) else model.tokenizer.decode(one)
        tokens = model.tokenizer.encode(text, special=body.special)
        if one not in (text, tokens):
            raise Fault(
                400,
                "these token ids are not what a text is encoded as; send the text",
                param="input",
                code="invalid_value",
            )
        texts.append(text)
        count += len(tokens)
    vectors = len(texts) if params.by == "text" else count
    if vectors * width > MOST_NUMBERS:
        most = MOST_NUMBERS // width
        raise Fault(
            400,
            f"up to {vectors:,} vectors are asked for, and an answer holds {most:,}; send fewer",
            param="input",
            code="too_long",
        )
    return texts, count


def _reply(
    body: EmbeddingBody, params: EmbedParams, model: str, found: Seq[Embedding], count: int
) -> bytes:
    data: list[ToldVector] = []
    for number, one in enumerate(found):
        vectors = _written(one.vectors, body.encoding_format == "base64")
        for vector, text, span in zip(vectors, one.texts, one.spans, strict=True):
            told = ToldVector(object="embedding", index=len(data), embedding=vector)
            if params.by != "text":
                told |= {"input": number, "text": text, "span": list(span)}
            data.append(told)
    usage = TextUsage(prompt_tokens=count, total_tokens=count)
    reply = EmbeddingReply(object="list", model=model, layer=found[0].layer, usage=usage, data=data)
    return large_json(reply)


def _written(vectors: Vectors, base64_wanted: bool) -> list[list[float] | str]:
    if base64_wanted:
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    return [row.tolist() for row in vectors]
