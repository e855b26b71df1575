"""What clients send: the fields of a request's JSON, their limits, and what each one does.

Names and meanings are those of OpenAI's API, and beside them gpt2rt's own. A field that is null has
its default; one that is not listed is an error, so that no setting is ignored in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from gpt2rt.sampling.params import SamplingParams
from gpt2rt.scoring.embeddings import EmbedParams
from gpt2rt.scoring.reading import AUTO_BOS
from gpt2rt.serving.formats import ResponseFormat, Strict, at_most

DRAWING = SamplingParams()
EMBEDDING = EmbedParams(by="text", normalize=True)
MOST_PROMPTS = 256
MOST_INPUTS = 2048  # as OpenAI's
MOST_TOKENS = 1_000_000
MOST_IDS = 1 << 16  # of one text
MOST_BIASES = 1024
LONGEST_TEXT = 131_072  # characters of a text that is only tokenized

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
# A list is read up to its first error: half a million of them would take seconds to tell.
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]
BiasKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[
    dict[BiasKey, Bias],
    BeforeValidator(at_most(MOST_BIASES)),  # a dict's own limit is looked at last
    Field(max_length=MOST_BIASES, json_schema_extra={"additionalProperties": False}),
]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]

SPECIAL = (
    "Whether control tokens in a text, such as `<|user|>`, are one token each or plain text; null: "
    "one token if the fine-tune has its own."
)


class RequestBody(Strict):
    """The fields of every request."""

    model: str | None = Field(
        None, max_length=1000, description="A name that `/v1/models` lists; null: the first."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        """Take 1.0 for 1, which to JSON are the same; in fields and in lists of ids."""
        return _whole(value, depth=2)


def _whole(value: Any, depth: int) -> Any:
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is list and depth and len(value) <= MOST_IDS and _has_floats(value, depth):
        return [_whole(one, depth - 1) for one in value]
    return value


def _has_floats(values: list[Any], depth: int) -> bool:
    """Whether there may be floats in a list, or in its lists."""
    inner = {float, list} if depth > 1 else {float}
    return not inner.isdisjoint(map(type, values))


class StreamOptions(Strict):
    """Settings of a stream."""

    include_usage: bool | None = Field(
        False, description="Whether a last event has the numbers of tokens."
    )


class DrawingBody(RequestBody):
    """How texts are drawn and when they end: what completions and chat have in common."""

    n: int | None = Field(1, ge=1, le=1024, description="Texts for each prompt.")
    temperature: float | None = Field(
        DRAWING.temperature,
        ge=0,
        le=100,
        description="Logits are divided by it: below 1 likely tokens become likelier, 0 always "
        "takes the most likely one.",
    )
    top_p: float | None = Field(
        DRAWING.top_p,
        gt=0,
        le=1,
        description="Only the smallest set of likeliest tokens with this probability together; 1 "
        "is off.",
    )
    top_k: int | None = Field(
        DRAWING.top_k, ge=0, le=1 << 31, description="Only the k likeliest tokens; 0 is off."
    )
    min_p: float | None = Field(
        DRAWING.min_p,
        ge=0,
        le=1,
        description="Only tokens with at least this fraction of the greatest probability; 0 is "
        "off.",
    )
    typical_p: float | None = Field(
        DRAWING.typical_p,
        gt=0,
        le=1,
        description="Only the tokens nearest to the expected surprisal, with this probability "
        "together; 1 is off.",
    )
    repetition_penalty: float | None = Field(
        DRAWING.repetition_penalty,
        ge=0.01,
        le=100,
        description="Makes tokens of the prompt and the text less likely; 1 is off.",
    )
    frequency_penalty: float | None = Field(
        DRAWING.frequency_penalty,
        ge=-2,
        le=2,
        description="Subtracted from a token's logit for each time that it is in the new text.",
    )
    presence_penalty: float | None = Field(
        DRAWING.presence_penalty,
        ge=-2,
        le=2,
        description="Subtracted from a token's logit once it is in the new text.",
    )
    no_repeat_ngram: int | None = Field(
        DRAWING.no_repeat_ngram,
        ge=0,
        le=1 << 31,
        description="No sequence of this many tokens comes twice, prompt included; 0 is off.",
    )
    logit_bias: Biases | None = Field(
        None, description="Numbers added to the logits of tokens, by id."
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=1 << 64,
        description="Makes the texts repeatable; null: a new one, which the answer tells.",
    )
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = Field(
        None, description="The text ends before the first of these texts."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = Field(
        None, description="Tokens that end the text, beside `<|endoftext|>`."
    )
    min_tokens: int | None = Field(
        DRAWING.min_length,
        ge=0,
        le=MOST_TOKENS,
        description="New tokens before the text may end.",
    )
    response_format: ResponseFormat | None = Field(
        None, description="A format that the text has to match."
    )
    truncate: Literal["left", "right"] | None = Field(
        None, description="The side at which a prompt that is too long is cut; null: an error."
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Likeliest tokens told at every place."
    )
    return_tokens: bool | None = Field(
        False, description="Whether each token is told with its id and log-probability."
    )
    stream: bool | None = Field(
        False, description="Whether the text is sent as server-sent events while it is drawn."
    )
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Has no effect.")


class CompletionBody(DrawingBody):
    """A request to continue texts."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
        | None
    ) = Field(
        None,
        description="A text, token ids, or a list of either; null begins a new text.",
    )
    max_tokens: int | None = Field(
        16, ge=0, le=MOST_TOKENS, description="The most new tokens; 0 only with `echo`."
    )
    best_of: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Texts that are drawn for each prompt; the `n` likeliest per token are told.",
    )
    echo: bool | None = Field(False, description="Whether the prompt is told before the text.")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Log-probabilities of tokens and of this many likeliest ones."
    )
    special: bool | None = Field(None, description=SPECIAL)
    suffix: str | None = Field(None, description="Not supported: GPT-2 only continues texts.")


class MessagePart(Strict):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="`developer` is OpenAI's newer name of `system`."
    )
    content: str | Annotated[list[MessagePart], Field(min_length=1, max_length=MOST_PROMPTS)]


class ChatBody(DrawingBody):
    """A request for the next message of a conversation."""

    messages: list[ChatMessage] = Field(
        min_length=1, max_length=1024, description="The conversation so far."
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MOST_TOKENS, description="The most new tokens; null: what the context holds."
    )
    max_tokens: int | None = Field(
        None, ge=1, le=MOST_TOKENS, description="The older name of `max_completion_tokens`."
    )
    logprobs: bool | None = Field(
        False, description="Whether log-probabilities of the tokens are told."
    )


class ScoreBody(RequestBody):
    """A request to score texts: the surprisal of every token and word."""

    text: str | None = Field(None, description="The text; or give `texts`.")
    texts: (
        Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)] | None
    ) = Field(None, description="Texts, each scored by itself.")
    context: str | None = Field(None, description="Is read before each text, and not scored.")
    bos: str | TokenId | None = Field(
        AUTO_BOS,
        description="A token before context and text, by text or id; `auto` is the tokenizer's; "
        "null: none, and then the first token of all has no score.",
    )
    window: int | None = Field(
        None, ge=1, le=1 << 31, description="Most tokens read at a time; null: the context's."
    )
    stride: int | None = Field(
        None,
        ge=1,
        le=1 << 31,
        description="Tokens by which the window advances; null: a longer text is an error.",
    )
    boundary: Literal["leading", "trailing"] | None = Field(
        "leading", description="The end of a word to which its white space belongs."
    )
    top: int | None = Field(0, ge=0, le=20, description="Likeliest tokens told at every place.")
    special: bool | None = Field(None, description=SPECIAL)


class EmbeddingBody(RequestBody):
    """A request for vectors of texts."""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]
    ) = Field(description="A text, token ids, or a list of either.")
    encoding_format: Literal["float", "base64"] | None = Field(
        "float", description="Numbers, or base64 of float32 in little-endian order."
    )
    layer: int | None = Field(
        None, ge=0, le=1 << 31, description="0: the embeddings; null: the last layer."
    )
    by: Literal["text", "word", "token"] | None = Field(
        EMBEDDING.by,  # type: ignore[arg-type]
        description="What has a vector.",
    )
    pooling: Literal["mean", "last", "weighted"] | None = Field(
        EMBEDDING.pooling,  # type: ignore[arg-type]
        description="How the vector of a text or word is made of its tokens'.",
    )
    word: str | None = Field(
        None, min_length=1, max_length=1000, description="Only this word; goes with `by: word`."
    )
    normalize: bool | None = Field(
        EMBEDDING.normalize, description="Whether vectors have length 1, as OpenAI's have."
    )
    stride: int | None = Field(
        None,
        ge=1,
        le=1 << 31,
        description="Tokens by which the window advances over a long text; null: an error.",
    )
    special: bool | None = Field(None, description=SPECIAL)
    dimensions: int | None = Field(
        None, ge=1, le=1 << 31, description="Only the model's own: GPT-2's vectors have one length."
    )
    user: str | None = Field(None, description="Has no effect.")


class TokenizeBody(RequestBody):
    """A request for the tokens of a text."""

    text: str = Field(max_length=LONGEST_TEXT)
    special: bool | None = Field(None, description=SPECIAL)


class DetokenizeBody(RequestBody):
    """A request for the text of tokens."""

    tokens: Annotated[list[TokenId], Field(max_length=MOST_IDS, fail_fast=True)]
