"""`POST /tokenize` and `/detokenize`: the tokens of a text, and the text of tokens."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from typing_extensions import TypedDict

from gpt2rt.model import GPT2
from gpt2rt.serving.ascii_json import large_json
from gpt2rt.serving.bodies import DetokenizeBody, TokenizeBody
from gpt2rt.serving.events import in_time
from gpt2rt.serving.replies import note
from gpt2rt.serving.service import Service, service_of

router = APIRouter(tags=["gpt2rt"])


class TokensReply(TypedDict):
    """The ids of a text's tokens, the text of each, and the characters that each is of.

    `prompt` are the ids that the model reads for the text as a prompt: with those that the
    tokenizer puts around it, and for an empty text those that begin a new one. `n_ctx` is how many
    tokens fit the model's context.
    """

    model: str
    tokens: list[int]
    texts: list[str]
    spans: list[list[int]]
    prompt: list[int]
    count: int
    n_ctx: int


class TextReply(TypedDict):
    """The text of tokens, with U+FFFD for what is no UTF-8."""

    model: str
    text: str


@router.post(
    "/tokenize", summary="The tokens of a text", response_model=TokensReply, operation_id="tokenize"
)
async def tokenize(
    body: TokenizeBody, request: Request, service: Service = Depends(service_of)
) -> Response:
    """Without the tokens that some tokenizers put around a prompt, but in `prompt` with them."""

    async def work() -> Response:
        async with service.model(body.model) as model:
            reply, count = await model.aside(_tokens, body, model.model)
            note(request, model, count)
            return Response(reply, media_type="application/json")

    return await in_time(request, service, work())


@router.post(
    "/detokenize",
    summary="The text of tokens",
    response_model=TextReply,
    operation_id="detokenize",
)
async def detokenize(
    body: DetokenizeBody, request: Request, service: Service = Depends(service_of)
) -> Response:
    """Any ids of the vocabulary."""

    async def work() -> Response:
        async with service.model(body.model) as model:
            reply = await model.aside(_text, body, model.model)
            note(request, model, len(body.tokens))
            return Response(reply, media_type="application/json")

    return await in_time(request, service, work())


def _tokens(body: TokenizeBody, model: GPT2) -> tuple[bytes, int]:
    """The answer, and the number of its tokens."""
    tokenizer = model.tokenizer
    found = tokenizer.encode_spans(body.text, special=body.special)
    whole = (*tokenizer.before, *found.tokens, *tokenizer.after)
    begins = tokenizer.before or (tokenizer.start_of_text,)
    reply = TokensReply(
        model=model.name,
        tokens=list(found.tokens),
        texts=[tokenizer.decode([token]) for token in found.tokens],
        spans=[list(span) for span in found.spans],
        prompt=list(whole if found.tokens else begins),
        count=len(found.tokens),
        n_ctx=model.hparams.n_ctx,
    )
    return large_json(reply), len(found.tokens)


def _text(body: DetokenizeBody, model: GPT2) -> bytes:
    reply = TextReply(model=model.name, text=model.tokenizer.decode(body.tokens))
    return large_json(reply)
