"""What the library is asked for: the requests of a body, checked before any work.

Choice i of prompt j is sample `j * best_of + i` of the seed, the number that it has when the
library continues `best_of` copies of each prompt. So anybody can repeat a text without the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

from gpt2rt.generation.request import Request
from gpt2rt.generation.stopping import Stopping
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.serving.bodies import (
    ChatBody,
    CompletionBody,
    DrawingBody,
)
from gpt2rt.serving.faults import Fault
from gpt2rt.serving.formats import constraint_of
from gpt2rt.serving.settings import ServeSettings
from gpt2rt.text.prompts import Prompt

MOST_LOGPROBS = 1 << 19  # of an answer; some 50 MB
MAX_TOKENS = 16  # OpenAI's default for completions
# Field -> the name in `SamplingParams`.
NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "no_repeat_ngram": "no_repeat_ngram",
    "min_tokens": "min_length",
    "seed": "seed",
}


@dataclass(frozen=True, slots=True)
class WantedTexts:
    """The texts that a client wants: for each prompt the best `n` of `best_of`.

    `length` is the most new tokens (None: as many as fit), `logprobs` whether log-probabilities are
    needed, `top` how many alternatives, `echo` whether prompts are told, too.
    """

    prompts: Seq[Prompt]
    n: int
    best_of: int
    length: int | None
    logprobs: bool
    top: int
    echo: bool = False

    @classmethod
    def completions(cls, body: CompletionBody) -> WantedTexts:
        """What a request for completions wants. Raises `Fault`."""
        n = body.n or 1
        best_of = body.best_of or n
        length = MAX_TOKENS if body.max_tokens is None else body.max_tokens
        if body.suffix:
            raise _wrong("suffix", "is not supported: GPT-2 continues texts, it fills no gaps")
        if best_of < n:
            raise _wrong("best_of", f"is {best_of}, less than n, {n}")
        if best_of > n and body.stream:
            raise _wrong("best_of", "goes without stream: all texts are drawn before one is chosen")
        if body.top_logprobs and not body.return_tokens:
            raise _wrong("top_logprobs", "goes with return_tokens: true; else there is logprobs")
        if length == 0 and not body.echo:
            raise _wrong("max_tokens", "is 0, which goes with echo only")
        shown = body.logprobs is not None or bool(body.return_tokens)
        return cls(
            prompts=_prompts(body.prompt),
            n=n,
            best_of=best_of,
            length=length,
            logprobs=shown or best_of > n,
            top=max(body.logprobs or 0, body.top_logprobs or 0),
            echo=bool(body.echo),
        )

    @classmethod
    def reply(cls, body: ChatBody, prompt: Seq[int]) -> WantedTexts:
        """What a request for the next message wants; `prompt` are the conversation's tokens."""
        n = body.n or 1
        if body.top_logprobs and not (body.logprobs or body.return_tokens):
            raise _wrong("top_logprobs", "goes with logprobs: true")
        return cls(
            prompts=[prompt],
            n=n,
            best_of=n,
            length=body.max_completion_tokens or body.max_tokens,
            logprobs=bool(body.logprobs or body.return_tokens),
            top=body.top_logprobs or 0,
        )

    def check(self, settings: ServeSettings, n_ctx: int) -> None:
        """Raises `Fault` for more texts, or more numbers, than a server of `n_ctx` can hold."""
        if self.best_of > settings.slots:
            name = "best_of" if self.best_of > self.n else "n"
            raise _wrong(name, f"is {self.best_of}, and the server has {settings.slots} slots")
        count, room = self.count, settings.slots + settings.queue
        if count > room:
            raise _wrong(
                "prompt", f"asks for {count} texts, and the server holds {room}; send fewer prompts"
            )
        length = n_ctx if self.echo or self.length is None else min(self.length, n_ctx)
        told = count * length * (1 + self.top) if self.logprobs else 0
        if told > MOST_LOGPROBS:
            raise Fault(
                400,
                f"up to {told:,} log-probabilities are asked for, and an answer holds "
                f"{MOST_LOGPROBS:,}; ask for fewer texts, tokens or likely tokens",
                code="too_long",
            )

    @property
    def count(self) -> int:
        """How many texts are drawn."""
        return len(self.prompts) * self.best_of

    def requests(self, body: DrawingBody, params: SamplingParams) -> Iterator[Request]:
        """The library's requests, in the order of their samples; `params` are the body's.

        Each is made when it is asked for: to read a schema takes long. Raises `InvalidSetting`.
        """
        constraint = constraint_of(body.response_format)
        stopping = Stopping(
            self.length or None,  # 0: nothing is run
            [body.stop] if isinstance(body.stop, str) else body.stop or (),
            body.stop_token_ids or (),
        )
        special = body.special if isinstance(body, CompletionBody) else None
        for sample in range(self.count):
            yield Request(
                self.prompts[sample // self.best_of],
                params,
                stopping,
                constraint,
                body.truncate,
                sample,
                logprobs=self.logprobs,
                special=special,
                top=self.top,
            )


def _wrong(name: str, why: str) -> Fault:
    return Fault(400, f"{name} {why}", param=name, code="invalid_value")


def _prompts(prompt: str | list[str] | list[int] | list[list[int]] | None) -> Seq[Prompt]:
    """The prompts of a field that has one or many."""
    if prompt is None or isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return prompt


def params_of(body: DrawingBody) -> SamplingParams:
    """How tokens are drawn, with a seed. Raises `InvalidSetting`."""
    given: dict[str, Any] = body.model_dump(include=set(NAMES), exclude_none=True)
    bias: dict[int | str, float] = {
        int(token): value for token, value in (body.logit_bias or {}).items()
    }
    named = {NAMES[name]: value for name, value in given.items()}
    return SamplingParams(**named, logit_bias=bias).seeded()
