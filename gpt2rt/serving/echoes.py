"""Prompts told before their texts (`echo`), with the scores of their tokens where asked for."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

from gpt2rt.asynchronous import AsyncGPT2
from gpt2rt.generation.completion import Piece
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.serving.bodies import CompletionBody
from gpt2rt.serving.requests import WantedTexts
from gpt2rt.text.prompts import Prompt

Pieces = tuple[Piece, ...]


async def with_echoes(
    body: CompletionBody, wanted: WantedTexts, model: AsyncGPT2
) -> tuple[WantedTexts, list[Pieces]]:
    """What is wanted, with token ids as prompts, and the pieces to be told before their texts.

    Raises as `GPT2.prompt_tokens`.
    """
    tokens = await model.aside(_tokens, body, wanted, model)
    echoes: list[Pieces] = [
        (Piece(0, _text(prompt, ids, body, model)),)
        for prompt, ids in zip(wanted.prompts, tokens, strict=True)
    ]
    if body.logprobs is not None or body.return_tokens:
        scored = await _scored(tokens, wanted, model)
        echoes = [
            (*echo, *pieces) if prompt is not None else echo
            for prompt, echo, pieces in zip(wanted.prompts, echoes, scored, strict=True)
        ]
    return replace(wanted, prompts=tokens), echoes


def _tokens(body: CompletionBody, wanted: WantedTexts, model: AsyncGPT2) -> list[tuple[int, ...]]:
    return [
        model.model.prompt_tokens(
            prompt, body.truncate, wanted.length or None, special=body.special
        )
        for prompt in wanted.prompts
    ]


def _text(prompt: Prompt, tokens: Seq[int], body: CompletionBody, model: AsyncGPT2) -> str:
    """The prompt as text: as it was sent, or what its tokens say."""
    if prompt is None:
        return ""
    if isinstance(prompt, str) and body.truncate is None:
        return prompt
    return model.model.tokenizer.decode(tokens)


async def _scored(
    prompts: Seq[tuple[int, ...]], wanted: WantedTexts, model: AsyncGPT2
) -> list[Pieces]:
    """A piece without text for each token; the first token of a prompt has no score."""
    found = await model.score_tokens(
        [Passage(tokens) for tokens in prompts if len(tokens) > 1], top=wanted.top
    )
    scores = iter(found)
    return [
        (Piece(0, "", tokens[0]), *(_pieces(tokens[1:], next(scores)) if len(tokens) > 1 else ()))
        for tokens in prompts
    ]


def _pieces(tokens: Seq[int], scores: TokenScores) -> list[Piece]:
    columns = (scores.logprobs.tolist(), scores.top_ids.tolist(), scores.top_logprobs.tolist())
    return [
        Piece(0, "", token, logprob, top=tuple(zip(ids, logprobs, strict=True)))
        for token, logprob, ids, logprobs in zip(tokens, *columns, strict=True)
    ]
