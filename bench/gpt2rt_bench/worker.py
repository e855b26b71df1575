"""The worker of gpt2rt itself: `python -m gpt2rt_bench.worker '{"bundle": ..., ...}'`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2rt_bench.protocol import Answer, Ready, Respond, Tokens, greedy, serve

if TYPE_CHECKING:
    import onnxruntime as ort

    from gpt2rt.engine.engine import Engine
    from gpt2rt.engine.slots import Part
    from gpt2rt.model import GPT2
    from gpt2rt_bench.cases import Configuration

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
PROVIDER = "ExecutionProvider"


def command(bundle: Path, configuration: Configuration) -> list[str]:
    """The command that starts the worker of a configuration."""
    settings = {
        "bundle": str(bundle),
        "provider": configuration.provider,
        "threads": configuration.threads,
    }
    return [sys.executable, "-m", "gpt2rt_bench.worker", json.dumps(settings)]


def load(bundle: str, provider: str, threads: int) -> tuple[Ready, Respond]:
    """Load a bundle as a user of the library does; returns also the function that answers requests.

    Raises `ProviderMissing` for a provider that it cannot be run with.
    """
    from gpt2rt import GPT2, Bundle, __version__
    from gpt2rt.engine.providers import Threads

    model = GPT2(Bundle.open(Path(bundle)), Threads(threads), provider, prefix_bytes=0)
    nodes = assigned(model.runtime.session)
    main = max(nodes, key=nodes.__getitem__)
    ready = Ready(
        provider=main,
        precision=model.bundle.manifest.precision,
        versions={"gpt2rt": __version__, **runtime_version()},
        kernels=model.runtime.kernels,
    )
    if len(nodes) > 1:
        counts = ", ".join(f"{count} on {name}" for name, count in nodes.most_common())
        ready.notes.append(f"nodes of the graph: {counts}")
    return ready, TimedModel(model).respond


class TimedModel:
    """A loaded model that answers requests through `GPT2.engine` and times their parts."""

    def __init__(self, model: GPT2) -> None:
        self._model = model
        self._spent: defaultdict[str, float] = defaultdict(float)

    def respond(self, prompts: list[Tokens], steps: int) -> Answer:
        self._spent.clear()
        engine = self._model.engine(len(prompts))
        answer = greedy(
            prompts,
            steps,
            lambda rows: self._prefill(engine, rows),
            lambda tokens: self._step(engine, tokens),
        )
        self._tokenise(prompts, answer.tokens)
        answer.shares = dict(self._spent)
        return answer

    def _prefill(self, engine: Engine, prompts: Sequence[Tokens]) -> Tokens:
        sequences = [engine.start(prompt) for prompt in prompts]
        chosen: dict[int, int] = {}
        while parts := engine.pieces(sequences):
            ended = [part.slot for part in parts if part.wanted]
            chosen |= zip(ended, self._chosen(engine, parts), strict=True)
        return [chosen[sequence.slot] for sequence in sequences]

    def _step(self, engine: Engine, tokens: Tokens) -> Tokens:
        pairs = zip(engine.running, tokens, strict=True)
        return self._chosen(engine, [sequence.part([token]) for sequence, token in pairs])

    def _chosen(self, engine: Engine, parts: Sequence[Part]) -> Tokens:
        """Run a step; returns the most likely token of each row."""
        from gpt2rt.sampling.params import SamplingParams
        from gpt2rt.sampling.sampling import choose
        from gpt2rt.sampling.selection import BEST, Selected

        with self._timed("session"):
            rows = engine.step(parts, [BEST] * sum(part.wanted for part in parts))
        with self._timed("sampling"):
            told = rows.chosen if isinstance(rows, Selected) else [-1] * len(rows)
            greedy = SamplingParams(temperature=0)
            pairs = zip(told, rows, strict=True)
            return [int(token) if token >= 0 else choose(row, greedy, []) for token, row in pairs]

    def _tokenise(self, prompts: Sequence[Tokens], texts: Sequence[Tokens]) -> None:
        """Time the same request as text: the prompt encoded, the new tokens decoded one by one."""
        tokenizer = self._model.tokenizer
        for prompt, tokens in zip(prompts, texts, strict=True):
            text = tokenizer.decode(prompt)
            with self._timed("tokenising"):
                tokenizer.encode(text)
                stream = tokenizer.stream()
                for token in tokens:
                    stream.push(token)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._spent[what] += (time.perf_counter() - began) * 1e3


def assigned(session: ort.InferenceSession) -> Counter[str]:
    """How many nodes of its graph a session runs on each provider, by their short names.

    Older versions of ONNX Runtime cannot tell; there the session's first provider counts.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", list)
    found: Counter[str] = Counter()
    for part in tell():
        found[short(part.ep_name)] += len(part.get_nodes())
    return found or Counter({short(session.get_providers()[0]): 1})


def short(provider: str) -> str:
    """`CPUExecutionProvider` -> `cpu`."""
    return provider.removesuffix(PROVIDER).lower()


def runtime_version() -> dict[str, str]:
    """The version of ONNX Runtime, under the name of its package."""
    for name in RUNTIMES:
        try:
            return {name: version(name)}
        except PackageNotFoundError:
            continue
    return {}


if __name__ == "__main__":
    serve(lambda: load(**json.loads(sys.argv[1])))
