"""The bundles of this machine as models of Simon Willison's `llm`, which loads this module.

GPT-2 continues text, so a conversation is one text: its prompts and answers, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import llm
from llm.parts import TextPart
from pydantic import Field

import gpt2rt
from gpt2rt.bundles import library
from gpt2rt.errors import InvalidSetting


class Gpt2rt(llm.Model):
    """A bundle as a model of `llm`, such as `gpt2rt/117M-int8`; loaded when it is first used."""

    can_stream = True
    supports_schema = True

    class Options(llm.Options):
        """What follows `-o`; what is not given is as in `SamplingParams` and `Stopping`."""

        temperature: float | None = Field(None, description="0 takes the most likely token")
        top_k: int | None = Field(None, description="Only the k most likely tokens; 0: all")
        top_p: float | None = Field(
            None, description="Only the most likely tokens, with this probability together; 1: all"
        )
        seed: int | None = Field(None, description="Makes a text repeatable")
        length: int | None = Field(None, description="The most new tokens")

    def __init__(self, bundle: gpt2rt.Bundle) -> None:
        self.model_id = f"gpt2rt/{bundle.name}"
        self._bundle = bundle

    @cached_property
    def _model(self) -> gpt2rt.GPT2:
        return gpt2rt.GPT2.load(self._bundle.directory)

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """The text that continues the conversation, in pieces. Raises `Gpt2rtError`."""
        settings = prompt.options.model_dump(exclude_none=True)
        stopping = gpt2rt.Stopping(settings.pop("length", None))
        params = gpt2rt.SamplingParams(**settings)
        schema = prompt.schema if isinstance(prompt.schema, dict) else None
        constraint = gpt2rt.Constraint(json_schema=schema) if schema else None
        texts = [_text(prompt)]
        for piece in self._model.stream_batch(texts, params, stopping, constraint=constraint):
            yield piece.text
            if (done := piece.completion) is not None:
                response.set_usage(input=len(done.prompt_tokens), output=len(done.tokens))
                response.response_json = {"seed": done.seed, "finish_reason": done.finish_reason}


def _text(prompt: llm.Prompt) -> str | None:
    """What is to be continued; None where there is no text. Raises `InvalidSetting`."""
    if any(message.role == "system" for message in prompt.messages):
        raise InvalidSetting("GPT-2 knows no system prompts: put the text before the prompt")
    parts = (part for message in prompt.messages for part in message.parts)
    return "".join(part.text for part in parts if isinstance(part, TextPart)) or None


@llm.hookimpl
def register_models(register: Callable[[llm.Model], None]) -> None:
    """Register a model for each bundle that is whole."""
    for bundle in library.exported():
        if not isinstance(bundle, library.Damaged):
            register(Gpt2rt(bundle))
