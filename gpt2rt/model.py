"""GPT-2: text in, text out.

from gpt2rt import GPT2, SamplingParams, Stopping

model = GPT2.load("117M-int8")
params = SamplingParams(top_k=40, seed=1)
print(model.generate("The meaning of life is", params, Stopping(length=50)).text)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Literal, NoReturn

from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import WEIGHTS, Bundle
from gpt2rt.bundles.catalog import TOKENIZER_FILES
from gpt2rt.bundles.hparams import HParams
from gpt2rt.engine.engine import Engine
from gpt2rt.engine.prefixes import PrefixCache
from gpt2rt.engine.providers import AUTO, Threads
from gpt2rt.engine.runtime import Runtime
from gpt2rt.engine.slots import Slots
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt.generation.beam_texts import best_texts
from gpt2rt.generation.beams import Beams
from gpt2rt.generation.completion import Completion, Piece, raised
from gpt2rt.generation.defaults import Defaults
from gpt2rt.generation.request import Request
from gpt2rt.generation.scheduler import Scheduler
from gpt2rt.generation.speculation import Draft, Lookup, SmallerModel
from gpt2rt.generation.stopping import Stopping
from gpt2rt.generation.task import now
from gpt2rt.generation.tasks import Tasks
from gpt2rt.sampling.params import SamplingParams, fresh_seed
from gpt2rt.scoring import embeddings, scoring
from gpt2rt.scoring.document import Document
from gpt2rt.scoring.embeddings import Embedding, EmbedParams, Reader, embed_texts
from gpt2rt.scoring.reading import AUTO_BOS, Bos, Reading, beginning
from gpt2rt.scoring.score import Boundary, Score
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.scoring.surprisal import score_texts, word_beginnings
from gpt2rt.text.prompts import Prompt, Truncate, check_prompt, prompt_tokens
from gpt2rt.text.tokenizers import read_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2rt.sampling.constraint import Constraint

BATCH_SIZE = 32  # sequences side by side, unless told otherwise
PREFIX_BYTES = 512 << 20  # of keys and values of prompts' beginnings, unless told otherwise
LOOKUP = "lookup"


class GPT2:
    """A bundle, loaded. Calls do not disturb each other: each has KV buffers of its own.

    What prompts begin with is kept between calls, up to `prefix_bytes`.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: Threads = Threads(),
        provider: str = AUTO,
        *,
        draft: GPT2 | Literal["lookup"] | None = None,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        """Load `bundle`. Raises `BadBundle` where its files are not what the manifest says.

        `provider` is `cpu`, `cuda`, or `auto`: CUDA where it is and the bundle has a graph for it.
        The attribute of that name says which it is. Raises `ProviderMissing` with the reason where
        CUDA cannot be had.

        `draft` proposes tokens to a sequence that runs alone: a smaller model of the same
        tokenizer, or a look-up in the text (`gpt2rt.generation.speculation`). Raises
        `InvalidSetting` for another tokenizer.
        """
        began = now()
        self.bundle = bundle
        self.hparams: HParams = bundle.manifest.hparams
        if prefix_bytes < 0:
            raise InvalidSetting(f"prefix_bytes must be 0 (off) or more, not {prefix_bytes}")
        self._draft = self._drafts_of(draft)
        bundle.check(name for name in bundle.manifest.files if name != WEIGHTS)
        with ThreadPoolExecutor(2) as aside:  # ONNX Runtime and hashing leave Python to others
            weights = aside.submit(bundle.check, [WEIGHTS])
            tokenizer = aside.submit(read_tokenizer, bundle.directory)
            self.runtime = Runtime(bundle, threads, provider)
            self.tokenizer = tokenizer.result()
            weights.result()
        if self.tokenizer.n_vocab != self.hparams.n_vocab:
            raise BadBundle(
                f"{bundle.directory}: the tokenizer has {self.tokenizer.n_vocab} ids, "
                f"the model {self.hparams.n_vocab}"
            )
        self.prefixes = PrefixCache(prefix_bytes) if prefix_bytes else None
        self.load_ms = now() - began
        self._tasks = Tasks(self.name, self.tokenizer, self.hparams.n_ctx, self.load_ms)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        provider: str = AUTO,
        draft: str | os.PathLike[str] | None = None,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> GPT2:
        """Load by name (`117M-int8`; `117M`: its best precision) or by the bundle's directory.

        None is the default model: `$GPT2RT_MODEL`, else an exported 117M, else the embedded demo.
        `threads`: None is one for each physical core. `draft`: likewise a name or a directory, or
        "lookup". Raises `UnknownModel`, `BadBundle`, `InvalidSetting`.
        """
        settings = Threads(threads)
        bundle = library.default() if model is None else library.find(model)
        if draft is None:
            return cls(bundle, settings, provider, prefix_bytes=prefix_bytes)
        if draft == LOOKUP:
            return cls(bundle, settings, provider, draft="lookup", prefix_bytes=prefix_bytes)
        smaller = cls(library.find(draft), settings, provider, prefix_bytes=0)
        return cls(bundle, settings, provider, draft=smaller, prefix_bytes=prefix_bytes)

    @property
    def name(self) -> str:
        return self.bundle.name

    @property
    def defaults(self) -> Defaults:
        """What the model's makers would generate with: `defaults.params` and `.stopping`."""
        return Defaults.read(self.bundle)

    def close(self) -> None:
        """Give back the weights, the threads and what prompts left behind; then only `name` works.

        `with GPT2.load(...) as model:` closes at its end, and the last reference that goes does.
        """
        self.runtime.close()
        self.prefixes = None

    def __enter__(self) -> GPT2:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a loaded model cannot be copied or pickled: share it among threads, and load it in "
            f"each process that needs it, by GPT2.load({str(self.bundle.directory)!r})"
        )

    @property
    def provider(self) -> str:
        """What runs the model: `cpu` or `cuda`."""
        return self.runtime.provider

    def generate(
        self,
        prompt: Prompt = None,
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
    ) -> Completion:
        """Continue `prompt`, a text or token ids (None: begin a text, from `<|endoftext|>`).

        `special`: whether control tokens in the text, such as `<|user|>`, are one token or plain
        text; None: one token where a fine-tune has its own (see `TextTokenizer.encode`).
        `constraint` says what the text has to be like; `truncate` which side of a prompt that is
        too long may be cut. Raises `InvalidSetting`, `BadText`, `PromptTooLong`.
        """
        return self.generate_batch(
            [prompt], params, stopping, constraint=constraint, truncate=truncate, special=special
        )[0]

    def generate_batch(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Completion]:
        """Continue many prompts side by side; as `generate`, in the order of the prompts.

        The random numbers of a completion depend on the seed and its place in `prompts`, not on
        `batch_size`.
        """
        pieces = self.stream_batch(
            prompts,
            params,
            stopping,
            constraint=constraint,
            truncate=truncate,
            special=special,
            batch_size=batch_size,
        )
        done = [piece.completion for piece in pieces if piece.completion is not None]
        return sorted(done, key=lambda completion: completion.sample)

    def stream(
        self,
        prompt: Prompt = None,
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
    ) -> Iterator[str]:
        """As `generate`, but text as it is made; whole characters only."""
        pieces = self.stream_batch(
            [prompt], params, stopping, constraint=constraint, truncate=truncate, special=special
        )
        return (piece.text for piece in pieces if piece.text)

    def stream_batch(
        self,
        prompts: Iterable[Prompt],
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        constraint: Constraint | None = None,
        truncate: Truncate = None,
        special: bool | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Piece]:
        """As `generate_batch`, but a `Piece` for every token, samples interleaved.

        A collection of prompts is checked before any work. An iterator is read as slots become
        free, so that any number of prompts takes the same memory, and each is checked as it comes.
        Either way the first prompt that cannot be continued is the one that is told of.
        """
        if isinstance(prompts, str):
            raise InvalidSetting("prompts are a list of texts; for one text there is `generate`")
        if params.seed is None:
            params = replace(params, seed=fresh_seed())
        checked = self._checked(prompts, truncate, special)
        if isinstance(prompts, Collection):
            count = sum(1 for _ in checked)
            checked = map(check_prompt, prompts)
            batch_size = min(batch_size, max(1, count))
        requests = (
            Request(prompt, params, stopping, constraint, truncate, sample, special=special)
            for sample, prompt in enumerate(checked)
        )
        return raised(self.run(requests, batch_size=batch_size))

    def _checked(
        self, prompts: Iterable[Prompt], truncate: Truncate, special: bool | None
    ) -> Iterator[Prompt]:
        """The prompts as they come. Raises what `prompt_tokens` does, at the first."""
        before: list[Prompt] = []  # at most one: what repeats is checked once
        for prompt in map(check_prompt, prompts):
            if [prompt] != before:
                self.prompt_tokens(prompt, truncate, special=special)
                before = [prompt]
            yield prompt

    def run(self, requests: Iterable[Request], *, batch_size: int = BATCH_SIZE) -> Iterator[Piece]:
        """The pieces of any requests, each with settings of its own, `batch_size` side by side.

        Requests are taken as slots become free, so there may be any number of them. One for which
        `generate` would raise gives a piece with that `failure`, and the others go on.
        """
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise InvalidSetting(f"batch_size must be 1 or more, not {batch_size}")
        self.runtime.check(int(batch_size))
        return self._pieces(requests, batch_size)

    def _pieces(self, requests: Iterable[Request], batch_size: int) -> Iterator[Piece]:
        engine = self.engine(batch_size)
        yield from Scheduler(engine, self.hparams.n_ctx, self._tasks.begin, self._draft).run(
            requests
        )

    def beam_search(
        self,
        prompt: Prompt = None,
        beams: Beams = Beams(),
        params: SamplingParams = SamplingParams(),
        stopping: Stopping = Stopping(),
        *,
        truncate: Truncate = None,
        special: bool | None = None,
    ) -> list[Completion]:
        """The most likely continuations of `prompt`, the best of `beams.width` first.

        Of `params` the penalties, bans and biases count; temperature, top-k and the like do not.
        Raises what `generate` does, and `InvalidSetting` for `overflow="slide"`.
        """
        if stopping.overflow == "slide":
            raise InvalidSetting("beam search cannot slide; leave overflow at stop")
        request = Request(prompt, params, stopping, None, truncate, special=special)
        return best_texts(self.engine(beams.width), self._tasks.begin(request), beams)

    def score(
        self,
        text: str,
        *,
        bos: Bos = AUTO_BOS,
        context: str | None = None,
        special: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        boundary: Boundary = "leading",
        top: int = 0,
    ) -> Score:
        """How likely the model finds `text`, token by token, after `context` (None: none).

        `bos` is the token that stands before both, by its id or text: `"auto"` is the tokenizer's,
        `<|endoftext|>` in released models; by None nothing does, and the first token of all has no
        score. A text that exceeds the `window` (None: n_ctx tokens) is read in windows that move on
        by `stride` (None: it is refused). `special` is that of `generate`, `top` how many
        alternatives to give for each token. `boundary` is the end of a word at which its white
        space counts; `trailing` corrects the surprisal of words for vocabularies that have spaces
        before words. Raises `BadText`, `PromptTooLong`, `InvalidSetting`.
        """
        (score,) = self.score_batch(
            [text],
            bos=bos,
            context=context,
            special=special,
            window=window,
            stride=stride,
            boundary=boundary,
            top=top,
        )
        return score

    def score_document(
        self,
        texts: Iterable[str],
        *,
        joint: str = " ",
        bos: Bos = AUTO_BOS,
        context: str | None = None,
        special: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        boundary: Boundary = "leading",
        top: int = 0,
    ) -> list[Score]:
        """As `score`, for the sentences of a document: each after those before it.

        They are scored as one text, joined by `joint`, and cut out of its score; so window and
        stride are those of the whole: a document longer than the window wants a stride, and its
        tokens are predicted from `window - stride + 1` at least, the earliest being left out.
        """
        if isinstance(texts, str):
            raise InvalidSetting("texts are a list; for one text there is `score`")
        document = Document(tuple(texts), joint)
        whole = self.score(
            document.text,
            bos=bos,
            context=context,
            special=special,
            window=window,
            stride=stride,
            boundary=boundary,
            top=top,
        )
        return document.parts(whole)

    def score_batch(
        self,
        texts: Iterable[str],
        *,
        bos: Bos = AUTO_BOS,
        context: str | None = None,
        special: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        boundary: Boundary = "leading",
        top: int = 0,
        batch_size: int = scoring.BATCH_SIZE,
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> Iterator[Score]:
        """As `score`, for many texts side by side, in their order; none changes another's score.

        The scores before a text that cannot be scored come first, then the error. `advance` is told
        of tokens as they are scored.
        """
        if isinstance(texts, str):
            raise InvalidSetting("texts are a list; for one text there is `score`")
        n_ctx, begin = self.hparams.n_ctx, beginning(self.tokenizer, bos)
        reading = Reading.within(n_ctx, window, stride, context, special, boundary, begin)
        scoring.check(self.hparams, top, batch_size)

        group = word_beginnings(self.tokenizer) if boundary == "trailing" else None

        def score_tokens(passages: Iterable[Passage]) -> Iterator[TokenScores]:
            return self.score_tokens(passages, top=top, batch_size=batch_size, group=group)

        return score_texts(texts, self.tokenizer, reading, score_tokens, advance)

    def score_tokens(
        self,
        passages: Iterable[Passage],
        *,
        top: int = 0,
        batch_size: int = scoring.BATCH_SIZE,
        group: NDArray[np.int64] | None = None,
    ) -> Iterator[TokenScores]:
        """The scores of each passage, in the order given; `top` most likely tokens at each place.

        Passages are read as they are needed, so any number of them takes the same memory. The
        scores of one do not depend on the others. `group` are tokens whose probabilities to sum at
        each place. Raises `InvalidSetting`, `PromptTooLong`.
        """

        return scoring.score_tokens(
            self.new_slots,
            self.hparams,
            passages,
            top=top,
            batch_size=batch_size,
            threads=self.runtime.threads,
            group=group,
        )

    def embed(self, text: str, params: EmbedParams = EmbedParams()) -> Embedding:
        """Contextual vectors of `text`: of its tokens, its words or the whole.

        Raises `BadText`, `InvalidSetting`, `PromptTooLong`; `BadBundle` for a bundle that was
        exported without the embedding graph.
        """
        (embedding,) = self.embed_batch([text], params)
        return embedding

    def embed_batch(
        self,
        texts: Iterable[str],
        params: EmbedParams = EmbedParams(),
        *,
        batch_size: int = embeddings.BATCH_SIZE,
    ) -> Iterator[Embedding]:
        """As `embed`, for many texts side by side, in their order."""
        if isinstance(texts, str):
            raise InvalidSetting("texts are a list; for one text there is `embed`")
        reader = Reader(self.tokenizer, self.hparams, self.runtime.hidden_states)
        return embed_texts(texts, reader, params, batch_size)

    def prompt_tokens(
        self,
        prompt: Prompt,
        truncate: Truncate = None,
        length: int | None = None,
        *,
        special: bool | None = None,
    ) -> tuple[int, ...]:
        """The tokens that are read for a prompt; as `gpt2rt.text.prompts.prompt_tokens`."""
        return prompt_tokens(
            prompt,
            self.tokenizer,
            self.hparams.n_ctx,
            special=special,
            truncate=truncate,
            length=length,
            name=self.name,
        )

    def new_slots(self, count: int) -> Slots:
        """Places for `count` sequences, with keys and values of their own.

        Raises `InvalidSetting` for more than memory holds.
        """
        return self.runtime.slots(count)

    def engine(self, count: int) -> Engine:
        """An engine for up to `count` sequences side by side: token ids in, logits out.

        This is the seam below text and sampling, at which `gpt2rt bench` measures.
        """
        return Engine(self.new_slots(count), self.prefixes)

    def _drafts_of(self, draft: GPT2 | Literal["lookup"] | None) -> Callable[[], Draft] | None:
        """What makes the draft of a sequence."""
        if draft is None:
            return None
        if draft == LOOKUP:
            return Lookup
        if not isinstance(draft, GPT2):
            raise InvalidSetting(f'draft is a GPT2, "{LOOKUP}" or None, not {draft!r:.60}')
        mine, others = (model.bundle.manifest.files for model in (self, draft))
        if any(mine.get(name) != others.get(name) for name in TOKENIZER_FILES):
            raise InvalidSetting(
                f"{draft.name} cannot draft for {self.name}: it has another tokenizer"
            )
        # Steps take as long as reading the weights does; a draft's come between others' (measured).
        cost = 1.25 * others[WEIGHTS].bytes / mine[WEIGHTS].bytes
        smaller = draft
        return lambda: SmallerModel(smaller.new_slots(1), smaller.hparams.n_ctx, cost)
