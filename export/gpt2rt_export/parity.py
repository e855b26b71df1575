"""How closely a bundle reproduces its checkpoint: the same tokens through TensorFlow and through
it.

The bundle is fed a real text that fills the context: in one piece (uncached), and in pieces with
single tokens between them, in stretches spread over the whole context (cached). Compared are the
logits, the loss of the text and the hidden states of every layer. Logits of a whole text are held
once, the bundle's; all else goes by blocks of rows.

A graph for CUDA is fed the beginning of the text, one half in one piece and the other by steps, on
the CPU provider, which rounds to float16 where the device does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundle import CUDA_GRAPH, EMBED, GRAPH
from gpt2rt.cuda import Device, HostMemory
from gpt2rt.errors import BadText
from gpt2rt.providers import Threads, open_session
from gpt2rt.session import SLOTS, Slots, hidden_states
from gpt2rt.tokenizers import TextTokenizer, read_tokenizer
from gpt2rt_export import reference
from gpt2rt_export.gates import GATES, Gate
from gpt2rt_export.progress import Progress, Silent
from gpt2rt_export.sources import Checkpoint

Logits = NDArray[np.float32]
Float64 = NDArray[np.float64]

STRETCHES = 16  # of tokens fed one by one, from position 1 to the last
STRETCH = 4  # tokens each
ROWS = 32  # positions compared at a time
CHANCE = 3.0  # standard errors that the loss may be off by chance
MOST_NATS = 700.0  # e to that power is still a number
CUDA_POSITIONS = 32  # of the text that the graph for CUDA reads
TEXT = "parity.txt"


# ---- what is found


@dataclass(frozen=True, slots=True)
class Agreement:
    """Logits of a bundle beside TensorFlow's, over some positions of one text.

    `largest` and `mean` are differences of logits; `deviation` is the standard deviation of
    TensorFlow's logits around each position's mean, for scale; `kl` is the mean Kullback-Leibler
    divergence in nats; `top1` is the share of positions where both prefer the same token, `top5`
    the mean share of common tokens among the best five.
    """

    positions: int
    largest: float
    mean: float
    deviation: float
    kl: float
    top1: float
    top5: float

    @property
    def relative(self) -> float:
        """The largest difference in deviations; 0 of nothing at all is 0."""
        if self.deviation:
            return self.largest / self.deviation
        return math.inf if self.largest else 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean nats a token of the text after its first one, 0 where there is no more.

    `error` is the standard error of their difference if rounding had no direction: then a text of
    so many tokens shows a difference of that size by chance.
    """

    tensorflow: float
    bundle: float
    error: float

    @classmethod
    def of(cls, wanted: Float64, found: Float64) -> Loss:  # nats of each token
        count = max(1, len(wanted))
        error = math.sqrt(float(np.square(found - wanted).sum())) / count
        return cls(float(wanted.sum()) / count, float(found.sum()) / count, error)

    @property
    def change(self) -> float:
        """Of the perplexity, as a share of TensorFlow's."""
        return math.expm1(min(self.bundle - self.tensorflow, MOST_NATS))

    @property
    def excess(self) -> float:
        """As `change`, in either direction, without what may be chance."""
        beyond = abs(self.bundle - self.tensorflow) - CHANCE * self.error
        return math.expm1(min(beyond, MOST_NATS))

    def as_dict(self) -> dict[str, float]:
        perplexities = {
            "tensorflow": math.exp(min(self.tensorflow, MOST_NATS)),
            "bundle": math.exp(min(self.bundle, MOST_NATS)),
        }
        return {**perplexities, "change": self.change, "error": self.error, "excess": self.excess}


@dataclass(frozen=True, slots=True)
class Noise:
    """How far cached and uncached logits of the bundle itself are apart.

    `largest` is the largest difference; `near_ties` is the share of positions where the two best
    tokens are no further apart than that, and `greedy_equal` says whether everywhere else both ways
    prefer the same token.
    """

    largest: float
    near_ties: float
    greedy_equal: bool

    @classmethod
    def of(cls, whole: Logits, stepwise: Logits) -> Noise:  # [R,V], [R,V]
        largest = float(np.abs(whole - stepwise).max())
        second, best = np.partition(whole, -2, axis=-1)[:, -2:].T
        # Written so that NaNs are no near ties and differ.
        apart = ~(best - second <= largest)
        same = np.argmax(whole, axis=-1) == np.argmax(stepwise, axis=-1)
        return cls(largest, float(np.mean(~apart)), bool((same & ~np.isnan(best))[apart].all()))


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured; `cached` and `noise` are None where the context is one token long,
    `cuda` where there is no graph for it.

    `drift` is the difference of the hidden states of each layer (counted as in `Tensors.hidden`),
    relative to TensorFlow's: Euclidean lengths at each position, mean over positions. `added` is
    that of what each layer adds to the states of the one before, which in a deep model shows a
    wrong layer where drift hardly does; of the first and the last layer it is the drift.
    """

    tokens: int
    uncached: Agreement
    cached: Agreement | None
    cuda: Agreement | None
    loss: Loss
    drift: tuple[float, ...]
    added: tuple[float, ...]
    noise: Noise | None
    gate: Gate

    @property
    def agreements(self) -> dict[str, Agreement]:
        ways = {"uncached": self.uncached, "cached": self.cached, "cuda": self.cuda}
        return {name: agreement for name, agreement in ways.items() if agreement is not None}

    def failures(self) -> list[str]:
        """What is beyond the gate and by how much, a text each; none: the bundle passes."""
        gate, found = self.gate, []
        for name, agreement in self.agreements.items():
            relative, kl = agreement.relative, agreement.kl
            found.append((f"{name} logits: {{}} of their deviation off", relative, gate.largest))
            found.append((f"{name} divergence: {{}} nats", kl, gate.kl))
        found.append(("perplexity: {} off beyond chance", self.loss.excess, gate.perplexity))
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
        parts = {
            "tokens": self.tokens,
            **{name: asdict(a) | {"relative": a.relative} for name, a in self.agreements.items()},
            "perplexity": self.loss.as_dict(),
            "drift": list(self.drift),
            "added": list(self.added),
        }
        if self.noise is not None:
            parts["noise"] = asdict(self.noise)
        return parts | {"gate": asdict(self.gate)}


# ---- measuring


def measure(
    directory: Path,
    checkpoint: Checkpoint,
    kind: str,
    precision: str,
    show: Progress | None = None,
) -> Report:
    """Compare the bundle in `directory` with `checkpoint`. What to make of it the gate says."""
    show = show or Silent()
    hparams = checkpoint.hparams
    tokens = text_tokens(read_tokenizer(directory), hparams.n_ctx)
    wanted, drift, added = _layers(directory, checkpoint, tokens, show)
    slots = SLOTS[kind](open_session(directory / GRAPH, Threads(spinning=False)), hparams, 1)
    advance = show.stage("Verify: logits", len(tokens))
    whole = uncached(slots, tokens)
    rows = _rows(wanted, whole, range(len(tokens)), [*tokens[1:], 0], advance)
    agreement, noise, positions = None, None, stretches(len(tokens))
    if positions:
        advance = show.stage("Verify: logits with a cache", len(positions))
        stepwise = cached(slots, tokens, positions, advance)
        agreement = _agreement(_rows(wanted, stepwise, positions, [0] * len(positions)))
        noise = Noise.of(whole[positions], stepwise)
    del slots, whole
    return Report(
        tokens=len(tokens),
        uncached=_agreement(rows),
        cached=agreement,
        cuda=_cuda(directory, wanted, tokens[:CUDA_POSITIONS], show),
        loss=Loss.of(*rows[:-1, -2:].T),
        drift=drift,
        added=added,
        noise=noise,
        gate=GATES[precision],
    )


def _cuda(
    directory: Path, wanted: reference.Reference, tokens: Sequence[int], show: Progress
) -> Agreement | None:
    """The graph for CUDA beside TensorFlow, where there is one."""
    if not (directory / CUDA_GRAPH).is_file():
        return None
    advance = show.stage("Verify: the graph for CUDA", len(tokens))
    session = open_session(directory / CUDA_GRAPH, Threads(spinning=False), prepack=False)
    slots = Device(session, wanted.hparams, HostMemory()).slots(1)
    half = -(-len(tokens) // 2)
    found = [slots.extend(0, 0, tokens[:half], range(half))]
    for at in range(half, len(tokens)):
        found.append(np.array(slots.advance([at], [tokens[at]])[0])[None])
    positions = range(len(tokens))
    rows = _rows(wanted, np.concatenate(found), positions, [0] * len(tokens), advance)
    return _agreement(rows)


def text_tokens(tokenizer: TextTokenizer, n_ctx: int) -> list[int]:
    """`n_ctx` tokens of real English text, from `<|endoftext|>` on.

    Without the words that a vocabulary which lacks bytes cannot spell.
    """
    text = resources.files("gpt2rt_export").joinpath(TEXT).read_text(encoding="utf-8")
    tokens = [tokenizer.start_of_text]
    try:
        tokens += tokenizer.encode(text)
    except BadText:
        for word in re.findall(r"\s*\S+", text):
            with suppress(BadText):
                tokens += tokenizer.encode(word)
    while len(tokens) < n_ctx:
        tokens += tokens
    return tokens[:n_ctx]


def stretches(count: int) -> list[int]:
    """Positions of `count` at which tokens are fed one by one: all but 0 where those are few."""
    if count - 1 <= STRETCHES * STRETCH:
        return list(range(1, count))
    starts = np.linspace(1, count - STRETCH, STRETCHES).astype(int).tolist()
    return [at for start in starts for at in range(start, start + STRETCH)]


def uncached(slots: Slots, tokens: Sequence[int]) -> Logits:  # [S] -> [S,V]
    return slots.extend(0, 0, tokens, range(len(tokens)))


def cached(
    slots: Slots,
    tokens: Sequence[int],
    positions: Iterable[int],
    advance: Callable[[int], None] = lambda done: None,
) -> Logits:  # -> [R,V]
    """Logits after the tokens at `positions`, fed one by one; those between come in pieces."""
    held, rows = 0, []
    for at in positions:
        if at > held:
            slots.extend(0, held, tokens[held:at])
        rows.append(np.array(slots.advance([at], [tokens[at]])))
        held = at + 1
        advance(1)
    return np.concatenate(rows)


def _layers(
    directory: Path, checkpoint: Checkpoint, tokens: Sequence[int], show: Progress
) -> tuple[reference.Reference, tuple[float, ...], tuple[float, ...]]:
    """TensorFlow's reading of the text, and `Report.drift` and `Report.added` beside it."""
    hparams = checkpoint.hparams
    show.stage("Verify: hidden states")
    session = open_session(directory / EMBED, Threads(spinning=False), prepack=False)
    layers = range(hparams.n_layer + 1)
    states = hidden_states(session, hparams, np.array([tokens], np.int32), layers)
    del session
    advance = show.stage("Verify: TensorFlow", len(layers))
    drift: list[float] = []
    added: list[float] = []
    before = np.zeros((len(tokens), hparams.n_embd), np.float32)

    def see(layer: int, wanted: Logits) -> None:
        found = states[layer][0]
        drift.append(relative_difference(wanted, found))
        if 0 < layer < hparams.n_layer:
            added.append(relative_difference(wanted - before, found - states[layer - 1][0]))
        else:
            added.append(drift[-1])
        before[:] = wanted
        advance(1)

    return reference.read(checkpoint, tokens, see), tuple(drift), tuple(added)


def relative_difference(wanted: Logits, found: Logits) -> float:  # [S,D], [S,D]
    """Length of the difference beside that of `wanted`, mean over positions; 0/0 is 0."""
    difference = np.linalg.norm(wanted.astype(np.float64) - found, axis=-1)
    length = np.linalg.norm(wanted.astype(np.float64), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = difference / length
    return float(np.where((difference == 0) & (length == 0), 0.0, share).mean())


# ---- comparing logits


def compare(wanted: Logits, found: Logits) -> Agreement:  # [R,V], [R,V]
    return _agreement(_statistics(wanted, found, [0] * len(wanted)))


def _rows(
    wanted: reference.Reference,
    found: Logits,
    positions: Sequence[int],
    following: Sequence[int],
    advance: Callable[[int], None] = lambda done: None,
) -> Float64:  # found [R,V] -> [R,8]
    """`_statistics` of `found`, a block of rows after the other."""
    parts = []
    for start in range(0, len(positions), ROWS):
        block = slice(start, start + ROWS)
        logits = wanted.logits(list(positions[block]))
        parts.append(_statistics(logits, found[block], following[block]))
        advance(len(logits))
    return np.concatenate(parts)


def _statistics(wanted: Logits, found: Logits, following: Sequence[int]) -> Float64:  # -> [R,8]
    """Of each row: largest and mean difference, variance, divergence, whether the best is the same,
    share of the best five, and by either the nats of the token that follows."""
    wide, other = wanted.astype(np.float64), found.astype(np.float64)
    difference = np.abs(wide - other)
    p, q = log_softmax(wide), log_softmax(other)
    best = (np.argpartition(logits, -5, axis=-1)[:, -5:] for logits in (wanted, found))
    common = [len(np.intersect1d(a, b)) / 5 for a, b in zip(*best, strict=True)]
    at = np.arange(len(wanted)), np.asarray(following)
    columns = (
        difference.max(axis=-1),
        difference.mean(axis=-1),
        wide.var(axis=-1),
        np.sum(np.exp(p) * (p - q), axis=-1),
        np.argmax(wanted, axis=-1) == np.argmax(found, axis=-1),
        common,
        -p[at],
        -q[at],
    )
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=-1)


def _agreement(rows: Float64) -> Agreement:  # [R,8]
    largest, mean, variance, kl, top1, top5, _, _ = rows.T
    return Agreement(
        positions=len(rows),
        largest=float(largest.max()),
        mean=float(mean.mean()),
        deviation=float(np.sqrt(variance.mean())),
        kl=float(kl.mean()),
        top1=float(top1.mean()),
        top5=float(top5.mean()),
    )


def log_softmax(logits: NDArray[Any]) -> Float64:  # [..., V] -> [..., V]
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float64)
