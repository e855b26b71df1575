"""Measures how closely a bundle reproduces its checkpoint: one text through it and TensorFlow.

The bundle reads a text that fills the context, once in one call (uncached) and once with single
tokens between longer calls, in spans spread over the whole context (cached). Logits, the loss of
the text and the hidden states of every layer are compared. Only the bundle's logits of the whole
text are held; TensorFlow's are computed a block of rows at a time.

The portable graph and the one for CUDA read the beginning of the text, half of it in one call and
the rest token by token, on the CPU provider, which rounds to float16 where the device does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.manifest import CUDA_GRAPH, EMBED, GRAPH, PORTABLE_GRAPH
from gpt2rt.engine.cuda.device import Device
from gpt2rt.engine.cuda.memory import HostMemory
from gpt2rt.engine.cuda.slots import CudaSlots
from gpt2rt.engine.forks import ForkAwareSession
from gpt2rt.engine.hidden import hidden_states
from gpt2rt.engine.portable import PortableSlots
from gpt2rt.engine.providers import CUDA, Threads, open_session
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.engine.slots import Part, Slots
from gpt2rt.text.tokenizers import read_tokenizer
from gpt2rt_export.progress import NoProgress, Progress
from gpt2rt_export.sources import Checkpoint
from gpt2rt_export.verify import account, reference
from gpt2rt_export.verify.agreement import (
    Agreement,
    Float64,
    Logits,
    Loss,
    agreement_of,
    guess_of,
    statistics,
)
from gpt2rt_export.verify.gates import GATES, Gate, precision_on
from gpt2rt_export.verify.sample import Sample

SPANS = 16  # of tokens fed one by one, from position 1 to the last
SPAN = 4  # tokens each
ROWS = 32  # positions compared at a time
FIRST = 32  # positions of the text that graphs for other providers read


# ---- the report


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All that was measured on the text that `text` names, and the limits for it.

    `cached` is None for a context of one token, `portable` and `cuda` where there is no such graph.
    `apart` is the largest difference of the bundle's own cached and uncached logits, `exact`
    whether they have to be equal: kernels compute the graph, and nothing beside them does
    arithmetic.
    `drift` is, for each layer (counted as in `Tensors.hidden`), the Euclidean length of the
    difference of hidden states relative to that of TensorFlow's, mean over positions. `added` is
    the same for what each layer adds to the states of the one before, which finds a wrong layer of
    a deep model where drift hardly does; for the first and the last layer it is the drift.
    `cuda_gate` is for the agreement `cuda`, `gate` for all others.
    """

    text: str
    tokens: int
    uncached: Agreement
    cached: Agreement | None
    portable: Agreement | None
    cuda: Agreement | None
    loss: Loss
    drift: tuple[float, ...]
    added: tuple[float, ...]
    apart: float
    exact: bool
    gate: Gate
    cuda_gate: Gate

    @property
    def agreements(self) -> dict[str, Agreement]:
        ways = {
            "uncached": self.uncached,
            "cached": self.cached,
            "portable": self.portable,
            "cuda": self.cuda,
        }
        return {name: agreement for name, agreement in ways.items() if agreement is not None}

    @property
    def apart_allowed(self) -> float:
        """The limit of `apart`: as far as logits may be from TensorFlow's, or nothing."""
        return 0.0 if self.exact else self.gate.largest * self.uncached.deviation

    @property
    def too_wide_for_cuda(self) -> bool:
        """Whether float16, in which CUDA computes, cannot hold the model's values."""
        return self.cuda is not None and not math.isfinite(self.cuda.largest)

    def failures(self) -> list[str]:
        """A sentence for each figure beyond its limit; an empty list: the bundle passes."""
        gate, known, found = self.gate, self.loss.known, []
        for name, way in self.agreements.items():
            its = self.cuda_gate if name == "cuda" else gate
            largest, kl = way.relative, its.kl if known else math.inf
            found.append((f"{name} logits: {{}} of their deviation off", largest, its.largest))
            found.append((f"{name} tempered divergence: {{}} nats", way.tempered, its.tempered))
            found.append((f"{name} divergence: {{}} nats", way.kl, kl))  # a NaN fails in any case
        perplexity = gate.perplexity if known else math.inf
        found.append(("perplexity: {} off beyond chance", self.loss.excess, perplexity))
        found.append(("cached and uncached logits: {} apart", self.apart, self.apart_allowed))
        worst = int(np.argmax(self.added))  # a NaN counts as the largest
        found.append((f"what layer {worst} adds: {{}} off", self.added[worst], gate.added))
        # Written so that a NaN fails.
        return [
            f"{text.format(f'{value:.3g}')} (allowed {limit:g})"
            for text, value, limit in found
            if not value <= limit
        ]

    def as_dict(self) -> dict[str, Any]:
        """The content of `parity.json`."""
        return {
            "text": self.text,
            "known": self.loss.known,
            "tokens": self.tokens,
            **{name: asdict(a) | {"relative": a.relative} for name, a in self.agreements.items()},
            "perplexity": self.loss.as_dict(),
            "drift": list(self.drift),
            "added": list(self.added),
            "apart": {"largest": self.apart, "allowed": self.apart_allowed},
            "gate": asdict(self.gate),
            "cuda_gate": asdict(self.cuda_gate),
        }


# ---- measuring


def measure(
    directory: Path,
    checkpoint: Checkpoint,
    kind: str,
    precision: str,
    progress: Progress | None = None,
    sample: Sample | None = None,
    slots: Slots | None = None,
) -> ParityReport:
    """Compare the bundle in `directory` with `checkpoint`, on `sample` or else English prose.

    `kind`: `fused` or `standard`. `slots` are those of a graph of the bundle on another provider,
    whose logits are then compared; None: those of `GRAPH` on the CPU. `failures` of the report says
    whether the bundle passes. Raises `ParityFailure` for a checkpoint that was misread
    (`account.check`).
    """
    progress = progress or NoProgress()
    if checkpoint.files:
        progress.stage("Verify: the arrays of the files")
        account.check(checkpoint)
    hparams = checkpoint.hparams
    sample = sample or Sample.choose(None, None)
    tokens = sample.tokens(read_tokenizer(directory), hparams.n_ctx)
    wanted, drift, added = _layers(directory, checkpoint, tokens, progress)
    exact = False
    if slots is None:
        slots, exact = _on_cpu(directory, kind, hparams)
    advance = progress.stage("Verify: logits", len(tokens))
    whole = uncached(slots, tokens)
    rows = _rows(wanted, whole, range(len(tokens)), [*tokens[1:], 0], advance)
    agreement, apart, positions = None, 0.0, spans(len(tokens))
    if positions:
        whole = whole[positions]  # a copy: the next step overwrites the logits
        advance = progress.stage("Verify: logits with a cache", len(positions))
        stepwise = cached(slots, tokens, positions, advance)
        agreement = agreement_of(_rows(wanted, stepwise, positions, [0] * len(positions)))
        apart = float(np.abs(whole - stepwise).max())
    del slots, whole
    return ParityReport(
        text=sample.source,
        tokens=len(tokens),
        uncached=agreement_of(rows),
        cached=agreement,
        portable=_portable(directory, wanted, tokens[:FIRST], progress),
        cuda=_cuda(directory, wanted, tokens[:FIRST], progress),
        loss=Loss.of(rows[:-1, -2], rows[:-1, -1], guess_of(tokens[1:], hparams.n_vocab)),
        drift=drift,
        added=added,
        apart=apart,
        exact=exact,
        gate=GATES[precision],
        cuda_gate=GATES[precision_on(precision, CUDA)],
    )


def _on_cpu(directory: Path, kind: str, hparams: HParams) -> tuple[Slots, bool]:
    """Slots of `GRAPH` on the CPU; whether logits have the same bits however a text is cut."""
    session = open_session(directory / GRAPH, Threads(spinning=False))
    exact = bool(session.kernels) and hparams.activation == "gelu_new"
    return SLOTS[kind](session, hparams, 1), exact


def _portable(
    directory: Path, wanted: reference.Reference, tokens: Sequence[int], progress: Progress
) -> Agreement | None:
    """How the portable graph agrees with TensorFlow; None where there is none."""
    if not (directory / PORTABLE_GRAPH).is_file():
        return None
    advance = progress.stage("Verify: the portable graph", len(tokens))
    session = _opened(directory / PORTABLE_GRAPH)
    return _begun(PortableSlots(session, wanted.hparams, 1), wanted, tokens, advance)


def _cuda(
    directory: Path, wanted: reference.Reference, tokens: Sequence[int], progress: Progress
) -> Agreement | None:
    """How the graph for CUDA agrees with TensorFlow; None where there is none."""
    if not (directory / CUDA_GRAPH).is_file():
        return None
    advance = progress.stage("Verify: the graph for CUDA", len(tokens))
    session = _opened(directory / CUDA_GRAPH)
    slots = CudaSlots(Device(session, directory, wanted.hparams, HostMemory()), 1)
    return _begun(slots, wanted, tokens, advance)


def _opened(graph: Path) -> ForkAwareSession:
    """A session on a graph that is not for the CPU, whose wider weights would take gigabytes."""
    return open_session(graph, Threads(spinning=False), prepack=False, fold=False)


def _begun(
    slots: Slots,
    wanted: reference.Reference,
    tokens: Sequence[int],
    advance: Callable[[int], None],
) -> Agreement:
    """How slots agree with TensorFlow on tokens, half in one call and the rest one by one."""
    half = -(-len(tokens) // 2)
    found = [np.array(slots.step([Part(0, 0, tokens[:half], half)]))]
    for at in range(half, len(tokens)):
        found.append(np.array(slots.step([Part(0, at, [tokens[at]])])))
    positions = range(len(tokens))
    rows = _rows(wanted, np.concatenate(found), positions, [0] * len(tokens), advance)
    return agreement_of(rows)


def spans(count: int) -> list[int]:
    """The positions, of `count`, at which tokens are fed one by one: all but 0 if they are few."""
    if count - 1 <= SPANS * SPAN:
        return list(range(1, count))
    starts = np.linspace(1, count - SPAN, SPANS).astype(int).tolist()
    return [at for start in starts for at in range(start, start + SPAN)]


def uncached(slots: Slots, tokens: Sequence[int]) -> Logits:  # [S] -> [S,V]
    return np.array(slots.step([Part(0, 0, tokens, len(tokens))]))


def cached(
    slots: Slots,
    tokens: Sequence[int],
    positions: Iterable[int],
    advance: Callable[[int], None] = lambda done: None,
) -> Logits:  # -> [R,V]
    """Logits after the tokens at `positions`, fed one by one; those between in one call each."""
    held, rows = 0, []
    for at in positions:
        if at > held:
            slots.step([Part(0, held, tokens[held:at])])
        rows.append(np.array(slots.step([Part(0, at, [tokens[at]])])))
        held = at + 1
        advance(1)
    return np.concatenate(rows)


def _layers(
    directory: Path, checkpoint: Checkpoint, tokens: Sequence[int], progress: Progress
) -> tuple[reference.Reference, tuple[float, ...], tuple[float, ...]]:
    """TensorFlow's states of the text, `ParityReport.drift` and `ParityReport.added`."""
    hparams = checkpoint.hparams
    progress.stage("Verify: hidden states")
    session = open_session(directory / EMBED, Threads(spinning=False), prepack=False)
    layers = range(hparams.n_layer + 1)
    states = hidden_states(session, hparams, np.array([tokens], np.int32), layers)
    del session
    advance = progress.stage("Verify: TensorFlow", len(layers))
    drift: list[float] = []
    added: list[float] = []
    before = np.zeros((len(tokens), hparams.n_embd), np.float32)

    def compare(layer: int, wanted: Logits) -> None:
        found = states[layer][0]
        drift.append(relative_difference(wanted, found))
        if 0 < layer < hparams.n_layer:
            added.append(relative_difference(wanted - before, found - states[layer - 1][0]))
        else:
            added.append(drift[-1])
        before[:] = wanted
        advance(1)

    return reference.read(checkpoint, tokens, compare), tuple(drift), tuple(added)


def relative_difference(wanted: Logits, found: Logits) -> float:  # [S,D], [S,D]
    """Euclidean length of the difference over that of `wanted`, mean over positions; 0/0 is 0."""
    difference = np.linalg.norm(wanted.astype(np.float64) - found, axis=-1)
    length = np.linalg.norm(wanted.astype(np.float64), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = difference / length
    return float(np.where((difference == 0) & (length == 0), 0.0, share).mean())


def _rows(
    wanted: reference.Reference,
    found: Logits,
    positions: Sequence[int],
    following: Sequence[int],
    advance: Callable[[int], None] = lambda done: None,
) -> Float64:  # found [R,V] -> [R,9]
    """`statistics` of `found` beside TensorFlow's logits, computed a block of rows at a time."""
    parts = []
    for start in range(0, len(positions), ROWS):
        block = slice(start, start + ROWS)
        logits = wanted.logits(list(positions[block]))
        parts.append(statistics(logits, found[block], following[block]))
        advance(len(logits))
    return np.concatenate(parts)
