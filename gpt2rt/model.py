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
from functools import lru_cache, partial
from numbers import Integral
from typing import TYPE_CHECKING, Literal, NoReturn

from gpt2rt import embeddings, library, memory, scoring
from gpt2rt.beams import Beams
from gpt2rt.bundle import EMBED, WEIGHTS, Bundle
from gpt2rt.catalog import TOKENIZER_FILES
from gpt2rt.defaults import Defaults
from gpt2rt.embeddings import Embedding, EmbedParams, Reader, embed_texts
from gpt2rt.engine import Engine
from gpt2rt.errors import BadBundle, InvalidSetting, ProviderMissing
from gpt2rt.generation import (
    Completion,
    Generation,
    Piece,
    Request,
    Task,
    best_texts,
    now,
    raised,
)
from gpt2rt.history import Edits
from gpt2rt.hparams import HParams
from gpt2rt.params import SamplingParams, fresh_seed
from gpt2rt.prefixes import PrefixCache
from gpt2rt.prompts import Prompt, Truncate, check_prompt, prompt_tokens
from gpt2rt.providers import AUTO, CPU, CUDA, Threads, graph_of, open_session, provider_for
from gpt2rt.sampling import Sampler
from gpt2rt.scoring import Passage, TokenScores
from gpt2rt.session import SLOTS, Slots, hidden_misfit, hidden_states, misfit, slots_of
from gpt2rt.speculation import Draft, Lookup, SmallerModel
from gpt2rt.stopping import Stopping, StopStrings
from gpt2rt.surprisal import Boundary, Reading, Score, score_texts, word_beginnings
from gpt2rt.tokenizers import TextTokenizer, read_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort
    from numpy.typing import NDArray

    from gpt2rt.constraint import Constraint, Grammar
    from gpt2rt.cuda import Device

BATCH_SIZE = 32  # sequences side by side, unless told otherwise
PREFIX_BYTES = 512 << 20  # of keys and values of prompts' beginnings, unless told otherwise
GRAMMARS = 16  # constraints kept ready
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

        `draft` proposes tokens to a sequence that runs alone (see `gpt2rt.speculation`): a smaller
        model of the same tokenizer, or a look-up in the text. Raises `InvalidSetting` for another
        tokenizer.
        """
        began = now()
        self._loaded: ort.InferenceSession | None
        self.bundle = bundle
        self.hparams: HParams = bundle.manifest.hparams
        if bundle.manifest.graph not in SLOTS:
            raise BadBundle(f"{bundle.directory}: unknown graph {bundle.manifest.graph!r}")
        chosen = provider_for(bundle, provider)
        if prefix_bytes < 0:
            raise InvalidSetting(f"prefix_bytes must be 0 (off) or more, not {prefix_bytes}")
        self._draft = self._drafts_of(draft)
        bundle.check(name for name in bundle.manifest.files if name != WEIGHTS)
        with ThreadPoolExecutor(2) as aside:  # ONNX Runtime and hashing leave Python to others
            weights = aside.submit(bundle.check, [WEIGHTS])
            tokenizer = aside.submit(read_tokenizer, bundle.directory)
            self._loaded, self.provider = _opened(bundle, threads, chosen, provider == AUTO)
            self.tokenizer = tokenizer.result()
            weights.result()
        self._hidden: ort.InferenceSession | None = None
        if self.tokenizer.n_vocab != self.hparams.n_vocab:
            raise BadBundle(
                f"{bundle.directory}: the tokenizer has {self.tokenizer.n_vocab} ids, "
                f"the model {self.hparams.n_vocab}"
            )
        kind = CUDA if self.provider == CUDA else bundle.manifest.graph
        if odd := misfit(self._session, self.hparams, kind):
            raise BadBundle(
                f"{graph_of(bundle, self.provider)}: not the graph of the manifest's hparams "
                f"(look for {odd}); {bundle.way_out}"
            )
        self.prefixes = PrefixCache(prefix_bytes) if prefix_bytes else None
        self._grammar = lru_cache(GRAMMARS)(partial(_compiled, self.tokenizer))
        self._device = _device(self._session, self.hparams) if self.provider == CUDA else None
        self.load_ms = now() - began

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
        self._loaded = self._hidden = self._device = self.prefixes = None
        self._grammar.cache_clear()

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
    def _session(self) -> ort.InferenceSession:
        if self._loaded is None:
            raise InvalidSetting(f"{self.name} is closed; load it again")
        return self._loaded

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
        if self._device is None:
            memory.check(self.hparams, int(batch_size))
        return self._pieces(requests, batch_size)

    def _pieces(self, requests: Iterable[Request], batch_size: int) -> Iterator[Piece]:
        engine = self._engine(batch_size)
        yield from Generation(engine, self.hparams.n_ctx, self._task, self._draft).run(requests)

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
        return best_texts(self._engine(beams.width), lambda: self._task(request), beams)

    def score(
        self,
        text: str,
        *,
        context: str | None = None,
        special: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        boundary: Boundary = "leading",
        top: int = 0,
    ) -> Score:
        """How likely the model finds `text`, token by token, after `context` (None: none).

        The first token is scored after `<|endoftext|>`. A text that exceeds the `window` (None:
        n_ctx tokens) is read in windows that move on by `stride` (None: it is refused).
        `special` is that of `generate`, `top` how many alternatives to give for each token.
        `boundary` is the end of a word at which its white space counts; `trailing` corrects the
        surprisal of words for vocabularies that have spaces before words. Raises `BadText`,
        `PromptTooLong`, `InvalidSetting`.
        """
        (score,) = self.score_batch(
            [text],
            context=context,
            special=special,
            window=window,
            stride=stride,
            boundary=boundary,
            top=top,
        )
        return score

    def score_batch(
        self,
        texts: Iterable[str],
        *,
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
        reading = Reading.within(self.hparams.n_ctx, window, stride, context, special, boundary)
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

        threads = self._session.get_session_options().intra_op_num_threads
        return scoring.score_tokens(
            self.new_slots,
            self.hparams,
            passages,
            top=top,
            batch_size=batch_size,
            threads=threads,
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
        session, hparams = self._embedder(), self.hparams
        reader = Reader(
            self.tokenizer, hparams, lambda t, layer: hidden_states(session, hparams, t, [layer])[0]
        )
        return embed_texts(texts, reader, params, batch_size)

    def _embedder(self) -> ort.InferenceSession:
        """The session of the embedding graph, opened when it is first asked for."""
        if self._hidden is None:
            if EMBED not in self.bundle.manifest.files:
                raise BadBundle(
                    f"{self.bundle.directory}: made before bundles could embed; "
                    f"{self.bundle.way_out}"
                )
            threads = self._session.get_session_options().intra_op_num_threads
            place = self.bundle.directory / EMBED
            session = open_session(place, Threads(threads), prepack=False)
            if odd := hidden_misfit(session, self.hparams):
                raise BadBundle(
                    f"{place}: not the graph of the manifest's hparams (look for {odd}); "
                    f"{self.bundle.way_out}"
                )
            self._hidden = session
        return self._hidden

    def prompt_tokens(
        self,
        prompt: Prompt,
        truncate: Truncate = None,
        length: int | None = None,
        *,
        special: bool | None = None,
    ) -> tuple[int, ...]:
        """The tokens that are read for a prompt; as `gpt2rt.prompts.prompt_tokens`."""
        return prompt_tokens(
            prompt,
            self.tokenizer,
            self.hparams.n_ctx,
            special=special,
            truncate=truncate,
            length=length,
            name=self.name,
        )

    def _engine(self, count: int) -> Engine:
        return Engine(self.new_slots(count), self.prefixes)

    def new_slots(self, count: int) -> Slots:
        """Places for `count` sequences, with keys and values of their own.

        Raises `InvalidSetting` for more than memory holds.
        """
        if self._device is not None:
            return self._device.slots(count)
        memory.check(self.hparams, count)
        manifest = self.bundle.manifest
        slots = slots_of(manifest.graph, manifest.precision)
        return slots(self._session, self.hparams, count)

    def _task(self, request: Request) -> Task:
        """What a request needs on its way."""
        params, stopping = request.params, request.stopping
        tokens = self.prompt_tokens(
            request.prompt, request.truncate, stopping.length, special=request.special
        )
        seed = fresh_seed() if params.seed is None else params.seed
        ends = frozenset(self.tokenizer.ends)
        enders = ends.union(stopping.tokens) if stopping.end_of_text else {*stopping.tokens}
        if request.constraint is not None:  # by this token it says that the text may end
            ends = ends | {self.tokenizer.end_of_text}
            enders = enders | ends
        if beyond := [token for token in enders if token >= self.hparams.n_vocab]:
            raise InvalidSetting(
                f"stop token {beyond[0]} is no token; ids go to {self.hparams.n_vocab - 1}"
            )
        grammar = None if request.constraint is None else self._grammar(request.constraint)
        edits = Edits.of(params, self.tokenizer, enders)
        # The last token drawn is never fed back, so a full context still gives one.
        room = None if stopping.overflow == "slide" else self.hparams.n_ctx - len(tokens) + 1
        return Task(
            request=request,
            seed=seed,
            prompt_tokens=tokens,
            room=room,
            enders=frozenset(enders),
            ends=ends,
            sampler=Sampler(params, seed, request.sample, edits, tokens),
            stream=self.tokenizer.stream(tokens),
            stops=StopStrings(stopping.strings),
            matcher=None if grammar is None else grammar.begin(),
            load_ms=self.load_ms,
        )

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


def _compiled(tokenizer: TextTokenizer, constraint: Constraint) -> Grammar:
    from gpt2rt.constraint import Grammar

    return Grammar(constraint, tokenizer)


def _opened(
    bundle: Bundle, threads: Threads, provider: str, either: bool
) -> tuple[ort.InferenceSession, str]:
    """The session and its provider: the CPU, where `either` will do and CUDA does not start."""
    try:
        return open_session(graph_of(bundle, provider), threads, provider), provider
    except ProviderMissing:
        if provider == CPU or not either:
            raise
        return open_session(graph_of(bundle, CPU), threads, CPU), CPU


def _device(session: ort.InferenceSession, hparams: HParams) -> Device:
    from gpt2rt.cuda import CudaMemory, Device

    return Device(session, hparams, CudaMemory())
