"""Tokens as clients are told of them: OpenAI's two forms of log-probabilities, and gpt2rt's own."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from typing_extensions import TypedDict

from gpt2rt.generation.completion import Piece
from gpt2rt.text.tokenizers import TextTokenizer


class CompletionLogprobs(TypedDict):
    """Of completions: a list for each property.

    A token that is part of a character is told as `bytes:\\xe2`; `text_offset` is the place of a
    token in the text, in characters. The first token of a prompt has no log-probability.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Likely(TypedDict):
    """A token of chat's log-probabilities, in nats."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Likely):
    """A token of a message, and the likeliest ones at its place."""

    top_logprobs: list[Likely]


class ChatLogprobs(TypedDict):
    """Of chat: a record for each token."""

    content: list[ChatLogprob]


class LikelyToken(TypedDict):
    """A token with its id; in `text` U+FFFD stands for a part of a character."""

    id: int
    text: str
    logprob: float | None


class ToldToken(LikelyToken):
    """A token of a text, and the likeliest ones at its place, the best first."""

    top: list[LikelyToken]


class Offsets:
    """Finds the place of each token in the text of all, in characters."""

    def __init__(self, tokenizer: TextTokenizer, after: Seq[int] = ()) -> None:
        self._stream = tokenizer.stream(after)
        self._end = 0

    def push(self, token: int) -> int:
        """The place of the next token: that of its first character, even of one it is part of."""
        start = self._end
        self._end += len(self._stream.push(token))
        return start


def completion_logprobs(
    pieces: Iterable[Piece], tokenizer: TextTokenizer, offsets: Offsets
) -> CompletionLogprobs:
    """The log-probabilities of the tokens of pieces; `offsets` has seen the tokens before them."""
    told = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for piece in pieces:
        if piece.token is None:
            continue
        told["tokens"].append(named(tokenizer, piece.token))
        told["token_logprobs"].append(piece.logprob)
        told["top_logprobs"].append(_best(piece, tokenizer))
        told["text_offset"].append(offsets.push(piece.token))
    return told


def _best(piece: Piece, tokenizer: TextTokenizer) -> dict[str, float] | None:
    """The likeliest tokens, the best first, and the token itself where it is not one of them."""
    if piece.token is None or piece.logprob is None:
        return None
    best: dict[str, float] = {}
    for token, logprob in (*piece.top, (piece.token, piece.logprob)):
        best.setdefault(named(tokenizer, token), logprob)
    return best


def chat_logprobs(pieces: Iterable[Piece], tokenizer: TextTokenizer) -> ChatLogprobs:
    """The log-probabilities of the tokens of pieces."""

    def likely(token: int, logprob: float) -> Likely:
        data = tokenizer.token_bytes(token)
        return Likely(token=data.decode("utf-8", "replace"), logprob=logprob, bytes=list(data))

    return ChatLogprobs(
        content=[
            ChatLogprob(
                **likely(piece.token, piece.logprob),
                top_logprobs=[likely(*pair) for pair in piece.top],
            )
            for piece in pieces
            if piece.token is not None and piece.logprob is not None
        ]
    )


def told_tokens(pieces: Iterable[Piece], tokenizer: TextTokenizer) -> list[ToldToken]:
    """The tokens of pieces with their ids."""

    def likely(token: int, logprob: float | None) -> LikelyToken:
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        return LikelyToken(id=token, text=text, logprob=logprob)

    return [
        ToldToken(**likely(piece.token, piece.logprob), top=[likely(*pair) for pair in piece.top])
        for piece in pieces
        if piece.token is not None
    ]


def named(tokenizer: TextTokenizer, token: int) -> str:
    """The text of a token, or its bytes where it is part of a character, as OpenAI writes them."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
