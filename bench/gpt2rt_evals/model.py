"""The interface of a language model that tasks use, and a loaded bundle behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt2rt.bundles.files import sha256
from gpt2rt.bundles.manifest import MANIFEST
from gpt2rt.generation.stopping import Stopping
from gpt2rt.model import BATCH_SIZE, GPT2
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.scoring.scoring import Passage, TokenScores

MEMORY = 1 << 30  # bytes of keys and values that a batch may take
GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a text is continued: at most `length` new tokens, up to the first of the strings `stops`,
    sampled by `params`."""

    length: int
    stops: tuple[str, ...] = ()
    params: SamplingParams = GREEDY


class LanguageModel(Protocol):
    """A model that scores and continues texts; `tokens` counts those read and generated so far."""

    tokens: int

    @property
    def n_ctx(self) -> int: ...

    @property
    def start_of_text(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode_bytes(self, tokens: Sequence[int]) -> bytes: ...

    def score(self, passages: Iterable[Passage], top: int = 0) -> Iterator[TokenScores]:
        """The scores of the passages, in order; see `GPT2.score_tokens`."""

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        """The new text of each prompt, without the stop string; `<|endoftext|>` ends it, too.

        An empty prompt begins a text. Sample i of a call has the random numbers of (seed, i).
        """


class BundleModel:
    """A loaded bundle as a `LanguageModel`; `special` as in `TextTokenizer.encode`."""

    def __init__(self, gpt2: GPT2, special: bool | None = None) -> None:
        self._gpt2 = gpt2
        self._special = special
        self.tokens = 0
        h = gpt2.hparams
        slot = h.n_layer * 2 * h.n_ctx * h.n_embd * 4  # keys and values of a sequence, float32
        self._batch_size = min(max(1, MEMORY // slot), BATCH_SIZE)

    @property
    def identity(self) -> str:
        """The sha256 of the bundle's manifest: results of another bundle are other records."""
        return sha256(self._gpt2.bundle.directory / MANIFEST)

    @property
    def n_ctx(self) -> int:
        return self._gpt2.hparams.n_ctx

    @property
    def start_of_text(self) -> int:
        return self._gpt2.tokenizer.start_of_text

    def encode(self, text: str) -> list[int]:
        return self._gpt2.tokenizer.encode(text, special=self._special)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return self._gpt2.tokenizer.decode_bytes(tokens)

    def score(self, passages: Iterable[Passage], top: int = 0) -> Iterator[TokenScores]:
        return self._gpt2.score_tokens(self._counted(passages), top=top)

    def _counted(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        for passage in passages:
            self.tokens += len(passage.tokens) - 1
            yield passage

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        stopping = Stopping(decoding.length, decoding.stops)
        done = self._gpt2.generate_batch(
            [prompt or None for prompt in prompts],
            decoding.params,
            stopping,
            special=self._special,
            batch_size=self._batch_size,
        )
        self.tokens += sum(len(made.prompt_tokens) + len(made.tokens) for made in done)
        return [made.text for made in done]
