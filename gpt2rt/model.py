"""The loaded model: `GPT2` generates, scores and embeds texts.

from gpt2rt import GPT2, SamplingParams, Stopping

model = GPT2.load("117M-int8")
params = SamplingParams(top_k=40, seed=1)
print(model.generate("The meaning of life is", params, Stopping(length=50)).text)
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, NoReturn

from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.checks import check_kind, check_whole
from gpt2rt.engine.engine import Engine
from gpt2rt.engine.prefixes import PrefixCache
from gpt2rt.engine.providers import AUTO, Threads
from gpt2rt.engine.runtime import Runtime
from gpt2rt.engine.slots import Slots
from gpt2rt.errors import BadBundle, InvalidSetting
from gpt2rt.generation.batch import Batch
from gpt2rt.generation.beams import Beams
from gpt2rt.generation.completion import Completion, Piece, raise_failures
from gpt2rt.generation.defaults import Defaults
from gpt2rt.generation.prompted import Prompted
from gpt2rt.generation.request import Request
from gpt2rt.generation.running import best_texts, requests_of, run_all
from gpt2rt.generation.speculation import LOOKUP, draft_maker
from gpt2rt.generation.stopping import Stopping
from gpt2rt.generation.task import now
from gpt2rt.generation.tasks import Tasks
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.scoring.scorer import Scorer
from gpt2rt.text.prompts import Prompt, Truncate, prompt_tokens
from gpt2rt.text.tokenizers import read_tokenizer

if TYPE_CHECKING:
    from gpt2rt.sampling.constraint import Constraint

BATCH_SIZE = 32  # default of sequences in a batch
PREFIX_BYTES = 512 << 20  # default size of the cache of prefixes


class GPT2(Scorer):
    """A loaded bundle, which generates, scores and embeds texts.

    Threads may share it: the texts that they generate at the same time are one batch, and each is
    as it would be alone. Keys and values of prompts' prefixes are cached between calls, up to
    `prefix_bytes` bytes (not on CUDA, where to copy them takes longer than to compute them).
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
        """Load `bundle`, after comparing its files with the manifest.

        Weights that did not change since they were last compared are not read for that.

        `provider` is `cpu`, `cuda`, `openvino`, `webgpu`, `tensorrt-rtx`, `directml` or `coreml`,
        with a device behind it where one is chosen (`openvino:gpu`). `auto` is the fastest that
        `gpt2rt bench --choose` found; else CUDA if it is available and the bundle is not fp32,
        which CUDA computes in float16; else the CPU. The attribute `provider` says which it is.

        `draft` proposes tokens for a sequence that runs alone: a smaller model with the same
        tokenizer, or "lookup" in the text (`gpt2rt.generation.speculation`).

        Raises `BadBundle` for damaged files, `ProviderMissing` if the provider cannot be had,
        `MissingExtra` if the tokenizer needs an extra, `InvalidSetting` for another draft.
        """
        began = now()
        self.bundle = bundle
        self.hparams: HParams = bundle.manifest.hparams
        check_whole("prefix_bytes", prefix_bytes, 0)  # 0: off
        self.make_draft = draft_maker(bundle, draft)
        bundle.check(name for name in bundle.manifest.files if name != WEIGHTS)
        with ThreadPoolExecutor(2) as aside:  # ONNX Runtime and hashing release the GIL
            weights = aside.submit(bundle.check, [WEIGHTS], again=False)
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
        self.tasks = Tasks(self.name, self.tokenizer, self.hparams.n_ctx, self.load_ms)
        self.batch = Batch(self)

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
        """Load a model by name (`117M-int8`; `117M`: its best precision) or by directory.

        None is the default model: `$GPT2RT_MODEL`, else an exported 117M, else the embedded demo.
        `threads` is their number; None is one for each physical core. `draft` is a name or
        directory, too, or "lookup". `provider` and the rest are as in the constructor.

        Raises `UnknownModel`, `BadBundle`, `ProviderMissing`, `MissingExtra`, `InvalidSetting`.
        """
        settings = Threads(threads)
        check_kind("model", model, (str, os.PathLike), optional=True)
        check_kind("draft", draft, (str, os.PathLike), optional=True)
        bundle = library.default() if model is None else library.find(model)
        proposer: GPT2 | Literal["lookup"] | None = LOOKUP if draft == LOOKUP else None
        if draft not in (None, LOOKUP):
            proposer = cls(library.find(draft), settings, provider, prefix_bytes=0)
        return cls(bundle, settings, provider, draft=proposer, prefix_bytes=prefix_bytes)

    @property
    def name(self) -> str:
        """The name of the bundle, such as `117M-int8`."""
        return self.bundle.name

    @property
    def defaults(self) -> Defaults:
        """The settings that the model's makers recommend, with `.params` and `.stopping`."""
        return Defaults.read(self.bundle)

    def close(self) -> None:
        """Release weights, threads and the cache of prefixes; the model cannot be used any more.

        Texts that other threads are generating end with `InvalidSetting`.

        `with GPT2.load(...) as model:` closes the model at its end, and so does deleting the last
        reference to it.
        """
        self.batch.close(self.runtime.closed())
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
        """The execution provider: `cpu`, `cuda`, or another with its device (`openvino:gpu`)."""
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
        """Continue `prompt`, a text or token ids (None: begin a new text, after `<|endoftext|>`).

        `constraint` is a format that the text has to match. `truncate` is the side, "left" or
        "right", at which a prompt that is too long is cut; None: it is an error. `special`: whether
        control tokens in the prompt, such as `<|user|>`, are one token or plain text; None: one
        token if a fine-tune has its own (see `TextTokenizer.encode`).

        Raises `InvalidSetting`, `BadText`, `PromptTooLong`, `BadLogits`, and `MissingExtra` for a
        constraint without the library.
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
        """Continue many prompts in batches of `batch_size`, each as `generate` does.

        The completions are in the order of the prompts. The random numbers of a completion depend
        on the seed and on the prompt's index, not on `batch_size`.
        """
        requests = requests_of(prompts, params, stopping, constraint, truncate, special)
        pieces = self._continue(prompts, requests, batch_size, ends_only=True)
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
        """Continue `prompt` as `generate` does, but yield the text as it is generated.

        The strings consist of whole characters.
        """
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
        """As `generate_batch`, but yield a `Piece` for every token, with samples interleaved.

        A collection of prompts is checked before any work. An iterator is read as slots become
        free, so that any number of prompts takes the same memory, and each is checked as it comes.
        Either way the error is that of the first prompt that cannot be continued.
        """
        requests = requests_of(prompts, params, stopping, constraint, truncate, special)
        return self._continue(prompts, requests, batch_size, ends_only=False)

    def _continue(
        self,
        prompts: Iterable[Prompt],
        requests: Iterator[Request],
        batch_size: int,
        ends_only: bool,
    ) -> Iterator[Piece]:
        check_whole("batch_size", batch_size, 1)
        readable = raise_failures(self.tasks.read(requests))
        if isinstance(prompts, Collection):
            checked = list(readable)
            readable, batch_size = iter(checked), min(batch_size, max(1, len(checked)))
        return raise_failures(self._run(readable, batch_size, ends_only))

    def run(self, requests: Iterable[Request], *, batch_size: int = BATCH_SIZE) -> Iterator[Piece]:
        """Run requests, each with its own settings, and yield their pieces, interleaved.

        Up to `batch_size` of them run at a time. Requests are taken as slots become free, so there
        may be any number of them. A request for which `generate` would raise an error gives a piece
        with that `failure`, and the others continue. Raises `InvalidSetting` for `batch_size`.
        """
        check_whole("batch_size", batch_size, 1)
        return self._run(self.tasks.read(requests), batch_size, ends_only=False)

    def _run(
        self, requests: Iterator[Prompted], batch_size: int, ends_only: bool
    ) -> Iterator[Piece]:
        self.runtime.check(int(batch_size))  # at once; the memory is taken with the first piece
        return run_all(self, requests, batch_size, ends_only=ends_only)

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
        """The `beams.width` most likely continuations of `prompt`, the best first.

        Of `params`, penalties, bans and biases apply; temperature, top-k and other filters do not.
        Raises as `generate`, and `InvalidSetting` for `overflow="slide"`.
        """
        check_kind("beams", beams, Beams)
        request = Request(prompt, params, stopping, None, truncate, special=special)
        if stopping.overflow == "slide":
            raise InvalidSetting("beam search cannot slide; leave overflow at stop")
        (prompted,) = self.tasks.read([request])
        self.runtime.check(beams.width)
        return best_texts(self, prompted, beams)

    def prompt_tokens(
        self,
        prompt: Prompt,
        truncate: Truncate = None,
        length: int | None = None,
        *,
        special: bool | None = None,
    ) -> tuple[int, ...]:
        """The tokens that the model reads for a prompt (see `generate`).

        A truncated prompt leaves room for `length` new tokens, but at most half the context (None:
        exactly half). Raises `BadText`, `PromptTooLong`, `InvalidSetting`.
        """
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
        """Slots for `count` sequences (see `gpt2rt.engine.slots`).

        Raises `InvalidSetting` if the memory is too small.
        """
        return self.runtime.slots(count)

    def engine(self, count: int) -> Engine:
        """An engine for up to `count` sequences: it takes token ids and returns logits.

        It is the layer below text and sampling, at which `gpt2rt bench` measures.
        """
        slots = self.new_slots(count)
        return Engine(slots, self.prefixes if slots.prefixes else None)
