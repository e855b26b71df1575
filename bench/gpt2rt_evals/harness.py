"""Runs the tasks of EleutherAI's lm-evaluation-harness on a bundle.

Importing this module registers the model `gpt2rt` with the harness. The harness's own command does
not import it, so `gpt2rt lm-eval` is that command with the model registered:

    gpt2rt lm-eval run --model gpt2rt --model_args model=117M-int8 --tasks lambada_openai

In Python: `import gpt2rt_evals.harness`, then `lm_eval.simple_evaluate(model="gpt2rt", ...)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from gpt2rt.bundles.catalog import TOKENIZER_FILES
from gpt2rt.errors import InvalidSetting
from gpt2rt.model import GPT2
from gpt2rt.sampling.params import SamplingParams
from gpt2rt.scoring.scoring import Passage, windows
from gpt2rt_evals.model import BundleModel, Decoding
from gpt2rt_evals.text import last_tokens

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SAMPLING = ("temperature", "top_k", "top_p")
BATCH = 32


@register_model("gpt2rt")
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A bundle as a model of the harness.

    `model`: name or directory; `seed`: of sampling, where a task samples; `max_length`: tokens of
    context used, at most what the model has; `max_gen_toks`: new tokens where a task does not say;
    `device` and `max_batch_size`, which the harness passes to every model, change nothing. Texts
    too long lose their beginning, as with the harness's own models. Raises as `GPT2.load`, and
    `InvalidSetting`.
    """

    def __init__(
        self,
        model: str | None = None,
        threads: int | None = None,
        provider: str = "auto",
        batch_size: int | str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._gpt2 = GPT2.load(model, threads=threads, provider=provider)
        self._model = BundleModel(self._gpt2)
        n_ctx = self._model.n_ctx
        self.max_length = n_ctx if max_length is None else int(max_length)
        if not 1 <= self.max_length <= n_ctx:
            raise InvalidSetting(f"max_length must be 1 to {n_ctx}, not {max_length}")
        self.max_gen_toks = int(max_gen_toks)
        self._seed = int(seed)
        self.batch_size = BATCH if batch_size in (None, "auto") else _whole(batch_size)

    @property
    def eot_token_id(self) -> int:
        return self._gpt2.tokenizer.end_of_text

    @property
    def prefix_token_id(self) -> int:
        return self._model.start_of_text

    @property
    def tokenizer_name(self) -> str:
        """A digest of the vocabulary, part of the harness's keys for cached requests."""
        files = self._gpt2.bundle.manifest.files
        named = (files[name].sha256[:12] for name in TOKENIZER_FILES if name in files)
        return "-".join(["gpt2rt", *named])

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self._gpt2.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        jobs = [
            self._passages([*context, *target], len(context)) for _, context, target in requests
        ]
        results = []
        bar = tqdm(jobs, desc="Running loglikelihood requests", disable=disable_tqdm)
        for (key, _, _), (nats, greedy) in zip(requests, self._sums(jobs), strict=True):
            results.append((nats, greedy))
            self.cache_hook.add_partial("loglikelihood", key, results[-1])
            bar.update()
        bar.close()
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        jobs = []
        for request in requests:
            tokens = [self.prefix_token_id, *self.tok_encode(request.args[0])]
            jobs.append(self._windows(tokens))
        results: list[float] = []
        bar = tqdm(jobs, desc="Running loglikelihood_rolling requests", disable=disable_tqdm)
        for request, (nats, _) in zip(requests, self._sums(jobs), strict=True):
            results.append(nats)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, nats)
            bar.update()
        bar.close()
        return results

    def _passages(self, tokens: Sequence[int], first: int) -> list[Passage]:
        """Passages that score the tokens from `first` on, with all context that fits."""
        count = len(tokens) - first
        if count > self.max_length:
            return self._windows(tokens[first - 1 :])
        dropped = max(0, len(tokens) - self.max_length - 1)
        return [Passage(tuple(tokens[dropped:]), first - dropped)] if count else []

    def _windows(self, tokens: Sequence[int]) -> list[Passage]:
        return [
            Passage(tuple(tokens[start:end]), first - start)
            for start, end, first in windows(len(tokens), self.max_length, self.max_length)
        ]

    def _sums(self, jobs: Sequence[Sequence[Passage]]) -> Iterator[tuple[float, bool]]:
        """Log-probability of each job's scored tokens, and whether all were the most likely."""
        scores = self._gpt2.score_tokens(
            (passage for job in jobs for passage in job), batch_size=self.batch_size
        )
        for job in jobs:
            parts = list(islice(scores, len(job)))
            nats = sum(float(part.logprobs.sum(dtype=np.float64)) for part in parts)
            yield nats, all(bool((part.ranks == 0).all()) for part in parts)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        texts: dict[int, str] = {}
        bar = tqdm(requests, desc="Running generate_until requests", disable=disable_tqdm)
        for settings, members in groups.items():
            decoding = self._decoding(json.loads(settings))
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                # Sample i of a call is drawn with the numbers of (seed, i).
                params = replace(decoding.params, seed=self._seed + start)
                decoding = replace(decoding, params=params)
                count = self.max_length - decoding.length
                prompts = [last_tokens(self._model, requests[i].args[0], count) for i in batch]
                for i, text in zip(batch, self._model.complete(prompts, decoding), strict=True):
                    texts[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
                    bar.update()
        bar.close()
        return [texts[i] for i in range(len(requests))]

    def _decoding(self, settings: dict[str, Any]) -> Decoding:
        """The harness's `gen_kwargs`. Raises `InvalidSetting` for one that would be ignored."""
        until = settings.pop("until", None) or ()
        lengths = [settings.pop(name, None) for name in LENGTHS]
        length = next((int(n) for n in lengths if n is not None), self.max_gen_toks)
        if not 1 <= length < self.max_length:
            raise InvalidSetting(
                f"{length} new tokens leave no context of {self.max_length}; give a smaller "
                "max_gen_toks"
            )
        chosen = {n: settings.pop(n) for n in SAMPLING if settings.get(n) is not None}
        sampled = settings.pop("do_sample", chosen.get("temperature", 0) > 0)
        settings = {name: value for name, value in settings.items() if value is not None}
        if settings:
            raise InvalidSetting(f"gpt2rt does not know the setting {', '.join(settings)}")
        params = SamplingParams(**chosen) if sampled else SamplingParams(temperature=0.0)
        stops = (until,) if isinstance(until, str) else tuple(until)
        end = self._gpt2.tokenizer.decode([self.eot_token_id])
        return Decoding(length, (*filter(None, stops), end), params)


def _whole(value: int | str | None) -> int:
    try:
        number = int(value or "")
    except ValueError:
        number = 0
    if number < 1:
        raise InvalidSetting(f"batch_size must be a whole number of 1 or more, not {value!r}")
    return number
