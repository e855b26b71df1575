"""`POST /v1/chat/completions`: the next message of a conversation, by the fine-tune's template."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, Literal, NotRequired

from fastapi import APIRouter, Depends, Request, Response
from typing_extensions import TypedDict

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.generation.completion import Piece
from gpt2rt.model import GPT2
from gpt2rt.serving.bodies import LONGEST_TEXT, ChatBody, ChatMessage
from gpt2rt.serving.events import EVENT
from gpt2rt.serving.faults import Fault
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
from gpt2rt.serving.tokens import ChatLogprobs, ToldToken, chat_logprobs, told_tokens

router = APIRouter(tags=["OpenAI"])


class ToldMessage(TypedDict):
    """A message that the model wrote."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Ending):
    """A message; `tokens` is there with `return_tokens`."""

    index: int
    message: ToldMessage
    logprobs: ChatLogprobs | None
    tokens: NotRequired[list[ToldToken]]


class ChatReply(Envelope):
    """The answer with all its messages."""

    choices: list[ChatChoice]
    usage: Usage


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatReply,
        "content": {"text/event-stream": {"schema": EVENT}},
        "description": "The messages, or events with parts of them, the last of which is `[DONE]`.",
    }
}


@router.post("/v1/chat/completions", summary="Go on with a conversation", responses=ANSWERS)
async def chat(
    body: ChatBody, request: Request, service: Service = Depends(service_of)
) -> Response:
    """Only for fine-tunes whose bundle has a chat template; a plain GPT-2 has none."""

    async def make(model: AsyncGPT2, began: float) -> Reply:
        prompt = await model.aside(conversation_tokens, model.model, body.messages)
        wanted = WantedTexts.reply(body, prompt)
        wanted.check(service.settings, model.model.hparams.n_ctx)

        def choice(index: int, prompt: int) -> MessageChoice:
            return MessageChoice(index, body, model)

        return Reply(
            service=service,
            model=model,
            form=ReplyForm("chatcmpl", "chat.completion", "chat.completion.chunk", choice),
            wanted=wanted,
            body=body,
            params=params_of(body),
            owner=request.state.owner,
            began=began,
        )

    return await answer(request, service, body, make)


def conversation_tokens(model: GPT2, messages: Seq[ChatMessage]) -> list[int]:
    """The tokens that the model reads for a conversation.

    Control tokens are those of the template: a message with the text of one is refused, since it
    could end its own turn. Raises `Fault`, `BadBundle`, `BadText`.
    """
    from gpt2rt.serving.chat_template import ChatTemplate

    template = ChatTemplate.read(model.bundle)
    if template is None:
        raise Fault(
            400,
            f"{model.name} has no chat template: it continues texts, by /v1/completions; for chat "
            "export a fine-tune that has one",
            code="no_chat_template",
        )
    control = [token.text for token in model.tokenizer.special_tokens if token.special]
    told = [{"role": _role(message), "content": _content(message)} for message in messages]
    for number, message in enumerate(told):
        for text in control:
            if text in message["content"]:
                raise Fault(
                    400,
                    f"message {number} has the control token {text}; leave it out",
                    param=f"messages.{number}.content",
                    code="control_token",
                )
    text = template.render(told)
    if len(text) > LONGEST_TEXT:
        raise Fault(
            400,
            f"the conversation has {len(text):,} characters, and at most {LONGEST_TEXT:,} are "
            "read; leave out the oldest messages",
            param="messages",
            code="context_length_exceeded",
        )
    return model.tokenizer.encode(text, special=True)


def _role(message: ChatMessage) -> str:
    """The role as templates know it."""
    return "system" if message.role == "developer" else message.role


def _content(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)


class MessageChoice:
    """A message of the answer; the first part of a stream tells its role."""

    before: Seq[Piece] = ()

    def __init__(self, index: int, body: ChatBody, model: AsyncGPT2) -> None:
        self._index = index
        self._body = body
        self._tokenizer = model.model.tokenizer
        self._begun = False

    def told(self, pieces: Seq[Piece]) -> dict[str, Any]:
        content = "".join([piece.text for piece in pieces])
        message = ToldMessage(role="assistant", content=content, refusal=None)
        return self._around(pieces, {"message": message})

    def told_part(self, pieces: Seq[Piece]) -> dict[str, Any]:
        delta = {} if self._begun else {"role": "assistant"}
        self._begun = True
        if content := "".join([piece.text for piece in pieces]):
            delta["content"] = content
        return self._around(pieces, {"delta": delta})

    def _around(self, pieces: Seq[Piece], what: dict[str, Any]) -> dict[str, Any]:
        told = {"index": self._index, **what, "logprobs": None, **ending(pieces)}
        if self._body.logprobs:
            told["logprobs"] = chat_logprobs(pieces, self._tokenizer)
        if self._body.return_tokens:
            told["tokens"] = told_tokens(pieces, self._tokenizer)
        return told
