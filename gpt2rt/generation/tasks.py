"""Reads the prompts of requests, and makes tasks: stop ids, sampler, compiled constraint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING

from gpt2rt.errors import Gpt2rtError, InvalidSetting
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import StopStrings
from gpt2rt.generation.task import Task
from gpt2rt.sampling.history import Edits
from gpt2rt.sampling.params import fresh_seed
from gpt2rt.sampling.sampling import Sampler
from gpt2rt.text.prompts import prompt_tokens
from gpt2rt.text.tokenizers import TextTokenizer

if TYPE_CHECKING:
    from gpt2rt.sampling.constraint import Constraint
    from gpt2rt.sampling.grammar import Grammar

GRAMMARS = 16  # compiled constraints in the cache


class Tasks:
    """Makes the tasks for requests to one model, and caches compiled constraints."""

    def __init__(self, name: str, tokenizer: TextTokenizer, n_ctx: int, load_ms: float) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._n_ctx = n_ctx
        self._load_ms = load_ms
        self._grammar = lru_cache(GRAMMARS)(partial(_compiled, tokenizer))

    def read(self, requests: Iterable[Request]) -> Iterator[Prompted]:
        """The requests with the tokens of their prompts, each read when it is asked for.

        A prompt that several requests in a row have is encoded once.
        """
        for _, same in groupby(requests, _reading):
            prompted = None
            for request in same:
                prompted = replace(prompted, request=request) if prompted else self._read(request)
                yield prompted

    def _read(self, request: Request) -> Prompted:
        try:
            tokens = prompt_tokens(
                request.prompt,
                self._tokenizer,
                self._n_ctx,
                special=request.special,
                truncate=request.truncate,
                length=request.stopping.length,
                name=self._name,
            )
        except Gpt2rtError as error:
            return Prompted(request, failure=error)
        return Prompted(request, tokens)

    def begin(self, prompted: Prompted) -> Task:
        """The task of a request, without new tokens yet.

        Raises the failure of the prompt, `InvalidSetting`, `MissingExtra`.
        """
        if prompted.failure is not None:
            raise prompted.failure
        request, tokens = prompted.request, prompted.tokens
        params, stopping, tokenizer = request.params, request.stopping, self._tokenizer
        seed = fresh_seed() if params.seed is None else params.seed
        stop_ids, ends = self._stop_ids(request)
        grammar = None if request.constraint is None else self._grammar(request.constraint)
        edits = Edits.of(params, tokenizer, stop_ids)
        # The last token drawn is not read by the model, so a full context still gives one.
        room = None if stopping.overflow == "slide" else self._n_ctx - len(tokens) + 1
        return Task(
            request=request,
            seed=seed,
            prompt_tokens=tokens,
            room=room,
            stop_ids=stop_ids,
            ends=ends,
            sampler=Sampler(params, seed, request.sample, edits, tokens),
            stream=tokenizer.stream(tokens),
            stops=StopStrings(stopping.strings),
            matcher=None if grammar is None else grammar.begin(),
            load_ms=self._load_ms,
        )

    def _stop_ids(self, request: Request) -> tuple[frozenset[int], frozenset[int]]:
        """The tokens that end the text, and those of them that are the tokenizer's own."""
        stopping, ends = request.stopping, frozenset(self._tokenizer.ends)
        stop_ids = ends.union(stopping.tokens) if stopping.end_of_text else {*stopping.tokens}
        if request.constraint is not None:  # a constraint allows this token where the text may end
            ends = ends | {self._tokenizer.end_of_text}
            stop_ids = stop_ids | ends
        n_vocab = self._tokenizer.n_vocab
        if beyond := [token for token in stop_ids if token >= n_vocab]:
            raise InvalidSetting(
                f"stop token {beyond[0]} is no token; ids go to {n_vocab - 1}", "tokens"
            )
        return frozenset(stop_ids), ends


def _reading(request: Request) -> tuple[object, ...]:
    """All that the tokens of a request's prompt depend on."""
    return request.prompt, request.special, request.truncate, request.stopping.length


def _compiled(tokenizer: TextTokenizer, constraint: Constraint) -> Grammar:
    from gpt2rt.sampling.grammar import Grammar

    return Grammar(constraint, tokenizer)
