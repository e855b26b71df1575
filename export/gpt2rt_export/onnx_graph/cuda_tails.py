"""Makes the tails of the CUDA graph: small graphs that choose or score a token for each row.

They compute what `gpt2rt.sampling` computes on the host, in float32: a random number falls on the
same token, but for what is within 1e-6 of a boundary between two. Every node runs on the device. As
few are used as do it, since each is a launch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    BIAS,
    CHOSEN,
    FACTOR,
    FILTERED,
    GROUPED,
    IDS,
    INVERSE_TEMPERATURE,
    KTH,
    LARGEST,
    LIMITED,
    LOGPROB,
    MIN_P,
    NORMALISER,
    OFF,
    OFFSET,
    RANK,
    SCORE,
    SHORTLIST,
    TARGET,
    TOP,
    TOP_IDS,
    TOP_LOGPROBS,
    TOP_P,
    TRIES,
    UNIFORM,
    Port,
    centred,
    group,
    tail,
)
from gpt2rt.bundles.manifest import TAILS
from gpt2rt_export.onnx_graph.body import Body
from gpt2rt_export.onnx_graph.fuse import declared, model_of

CHUNK = 256  # tokens whose weights are summed first: CumSum takes quadratic time on CUDA
BELOW_ONE = 1 - 2**-23  # what a share of a sum is at most, so that it stays below the sum
# Differences of float16 numbers are 2**-24 or more; times this, they are above any token's id.
FINEST = 2.0**44
# No difference of float16 numbers is below this, which times FINEST is an integer of 64 bits.
LOWEST = -(2.0**18)


def tails(hparams: HParams) -> dict[str, onnx.ModelProto]:
    """The tails by their kinds (`gpt2rt.bundles.manifest.TAILS`)."""
    return {kind: _model(hparams, kind) for kind in TAILS}


def _model(hparams: HParams, kind: str) -> onnx.ModelProto:
    body, ports = Nodes(hparams), tail(hparams, kind)
    MAKERS[kind](body)
    inputs, outputs = declared(ports.inputs), declared(ports.outputs)
    return model_of(helper.make_graph(body.nodes, kind, inputs, outputs))


class Nodes(Body):
    """The nodes of a tail so far, in terms of rows: numbers [R,1] and arrays [R,N] of them."""

    def __init__(self, hparams: HParams) -> None:
        super().__init__()
        self.hparams, self.n_vocab = hparams, hparams.n_vocab
        self.logits = centred(hparams).name
        self.column, self.inner = self.constant([1]), self.constant([2])  # axes within a row

    def wide(self, x: str) -> str:
        """float16 -> float32."""
        return self.op("Cast", [x], to=TensorProto.FLOAT)

    def best(self, x: str, k: int, largest: bool = True) -> tuple[str, str]:
        """The k largest (or smallest) numbers, in order, and where they are."""
        return self.most(x, self.constant([k]), largest)

    def most(self, x: str, count: str, largest: bool = True) -> tuple[str, str]:
        """As `best`, with a tensor of the number."""
        values, places = self.split("TopK", [x, count], 2, axis=1, largest=int(largest))
        return values, places

    def at(self, x: str, place: int) -> str:  # [R,N] -> [R,1]
        return self.op("Gather", [x, self.constant([place])], axis=1)

    def take(self, x: str, places: str) -> str:  # [R,N], [R,M] -> [R,M]
        return self.op("GatherElements", [x, places], axis=1)

    def sum(self, x: str) -> str:  # [R,N] -> [R,1]
        return self.op("ReduceSum", [x, self.column], keepdims=1)

    def running(self, x: str, before: bool = False) -> str:
        """The sums of all numbers up to each, or `before` each."""
        return self.op("CumSum", [x, self.constant(1)], exclusive=int(before))

    def count(self, condition: str) -> str:  # bool [R,N] -> int64 [R,1]
        return self.op("Cast", [self.sum(self.wide(condition))], to=TensorProto.INT64)

    def passed(self, sums: str, wanted: str) -> str:  # [R,N,M] or [R,1,M], [R,N] -> int64 [R,N]
        """How many running sums are no more than `wanted`."""
        condition = self.op("LessOrEqual", [sums, self.op("Unsqueeze", [wanted, self.inner])])
        total = self.op("ReduceSum", [self.wide(condition), self.inner], keepdims=0)
        return self.op("Cast", [total], to=TensorProto.INT64)

    def where(self, condition: str, x: str, otherwise: str) -> str:
        return self.op("Where", [condition, x, otherwise])

    def zero(self) -> str:
        return self.constant(0, np.float32)

    def weights(self, below: str) -> str:
        """exp(below * inverse temperature)."""
        return self.op("Exp", [self.op("Mul", [below, INVERSE_TEMPERATURE.name])])

    def name(self, x: str, port: Port) -> None:
        """Let the tensor `x` be an output of the graph."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [port.name if name == x else name for name in names]


def greedy(b: Nodes) -> None:
    largest, token = b.best(b.logits, 1)
    b.name(largest, LARGEST)
    b.name(token, CHOSEN)


def plain(b: Nodes) -> None:
    largest, _ = b.best(b.logits, 1)
    weights = weights_of_all(b, b.wide(b.logits), b.wide(largest))
    total, token = drawn_from_all(b, weights, UNIFORM.name)
    b.name(total, NORMALISER)
    b.name(token, CHOSEN)


def weights_of_all(b: Nodes, logits: str, largest: str) -> str:  # [R,V], [R,1] -> [R,V]
    return b.weights(b.op("Sub", [logits, largest]))


def drawn_from_all(b: Nodes, weights: str, numbers: str) -> tuple[str, str]:
    """The sum of all weights [R,1], and the tokens [R,N] on which random numbers [R,N] fall.

    Inverse transform sampling as in `gpt2rt.sampling.filters.pick`: the chunk in which the running
    sum passes the number's share, then the token in it.
    """
    chunks = -(-b.n_vocab // CHUNK)
    padding = b.constant([0, 0, 0, chunks * CHUNK - b.n_vocab])
    padded = b.op("Pad", [weights, padding])
    parts = b.op("Reshape", [padded, b.constant([-1, chunks, CHUNK])])
    sums = b.op("ReduceSum", [parts, b.inner], keepdims=0)
    running = b.running(sums)
    total = b.at(running, chunks - 1)
    wanted = b.op("Mul", [numbers, total])
    chunk = b.passed(b.op("Unsqueeze", [running, b.column]), wanted)
    left = b.op("Sub", [wanted, b.take(b.running(sums, before=True), chunk)])
    part = b.op("GatherND", [parts, b.op("Unsqueeze", [chunk, b.inner])], batch_dims=1)
    inside = b.op("CumSum", [part, b.constant(2)])  # [R,N,CHUNK]
    # By rounding, the tokens of a chunk may sum to less than what is left of it.
    end = b.op("Gather", [inside, b.constant(CHUNK - 1)], axis=2)
    most = b.op("Mul", [end, b.constant(BELOW_ONE, np.float32)])
    place = b.passed(inside, b.op("Min", [left, most]))
    return total, b.op("Add", [b.op("Mul", [chunk, b.constant([CHUNK])]), place])


def wide(b: Nodes) -> None:
    """Top-p and min-p by rejection: the first of `TRIES` tokens drawn from all that they keep.

    Top-p keeps a token if the weights before it, which are larger, or equal and of lower ids, do
    not reach the nucleus. So nothing is sorted, and a nucleus may be of any size.
    """
    largest, _ = b.best(b.logits, 1)
    logits = b.wide(b.logits)
    weights = weights_of_all(b, logits, b.wide(largest))
    total, tokens = drawn_from_all(b, weights, TRIES.name)
    every, own = (
        b.op("Unsqueeze", [x, axis])
        for x, axis in ((logits, b.column), (b.take(logits, tokens), b.inner))
    )
    lower = b.op("Less", [b.constant(np.arange(b.n_vocab)), b.op("Unsqueeze", [tokens, b.inner])])
    tied = b.op("And", [b.op("Equal", [every, own]), lower])
    before = b.op("Or", [b.op("Greater", [every, own]), tied])  # [R,N,V]
    above = b.where(before, b.op("Unsqueeze", [weights, b.column]), b.zero())
    by_p = b.op(
        "Less",
        [b.op("ReduceSum", [above, b.inner], keepdims=0), b.op("Mul", [TOP_P.name, total])],
    )
    by_least = b.op("GreaterOrEqual", [b.take(weights, tokens), MIN_P.name])
    count = TRIES.sized({"R": 1})[1]
    places = b.where(b.op("And", [by_p, by_least]), b.constant(np.arange(count)), b.constant(count))
    first, _ = b.best(places, 1, largest=False)
    token = b.take(tokens, b.op("Min", [first, b.constant(count - 1)]))
    chosen = b.where(b.op("Less", [first, b.constant(count)]), token, b.constant(-1))
    b.name(total, NORMALISER)
    b.name(chosen, CHOSEN)


def edited(b: Nodes) -> None:
    """As `filtered`, after changes of logits as in `gpt2rt.sampling.history`, bit for bit."""
    logits = b.op("Sub", [b.wide(b.logits), OFFSET.name])
    own = b.op("Add", [b.take(logits, IDS.name), BIAS.name])
    positive = b.op("Greater", [own, b.zero()])
    less, more = (b.op(kind, [own, FACTOR.name]) for kind in ("Div", "Mul"))
    new = b.op("Sub", [b.where(positive, less, more), OFF.name])
    changed = b.op("ScatterElements", [logits, IDS.name, new], axis=1)
    choose(b, changed, *b.best(changed, min(SHORTLIST, b.n_vocab)))


def filtered(b: Nodes) -> None:
    """Top-k, top-p and min-p among the likeliest tokens, where a row has filters."""
    best, ids = b.best(b.logits, min(SHORTLIST, b.n_vocab))
    choose(b, b.wide(b.logits), b.wide(best), ids)


def choose(b: Nodes, logits: str, best: str, ids: str) -> None:
    """Choose among all logits [R,V], or where a row has filters among the best, and their ids."""
    count, largest = min(SHORTLIST, b.n_vocab), b.at(best, 0)
    below, ids = ordered(b, b.op("Sub", [best, largest]), ids, count)
    every = weights_of_all(b, logits, largest)
    total, token = drawn_from_all(b, every, UNIFORM.name)
    kth = b.take(below, KTH.name)
    weights = b.weights(below)
    kept = keep(b, below, weights, kth, total)
    chosen = b.where(FILTERED.name, drawn_from_list(b, ids, weights, kept, count), token)
    if count < b.n_vocab:
        chosen = b.where(beyond(b, below, kept, kth, count), b.constant(-1), chosen)
    b.name(total, NORMALISER)
    b.name(chosen, CHOSEN)


def ordered(b: Nodes, below: str, ids: str, count: int) -> tuple[str, str]:
    """How far the best logits are below the largest, and their ids; of equal ones, lower ids first.

    A device's order of equal logits is not known, so they are sorted again with their ids.
    """
    finite = b.op("Max", [below, b.constant(LOWEST, np.float32)])
    steps = b.op("Mul", [finite, b.constant(FINEST, np.float32)])
    keys = b.op("Sub", [b.op("Cast", [steps], to=TensorProto.INT64), ids])
    _, order = b.best(keys, count)
    return b.take(finite, order), b.take(ids, order)


def keep(b: Nodes, below: str, weights: str, kth: str, total: str) -> str:  # -> bool [R,count]
    """Which of the shortlist the filters keep: its first ones."""
    by_k = b.op("GreaterOrEqual", [below, kth])
    some = b.where(by_k, weights, b.zero())
    whole = b.where(LIMITED.name, b.sum(some), total)
    nucleus = b.op("Mul", [TOP_P.name, whole])
    by_p = b.op("Less", [b.running(some, before=True), nucleus])
    by_least = b.op("GreaterOrEqual", [weights, MIN_P.name])
    return b.op("And", [b.op("And", [by_k, by_p]), by_least])


def drawn_from_list(b: Nodes, ids: str, weights: str, kept: str, count: int) -> str:
    """The kept token on which the random number falls, in the order of ids."""
    weights = b.where(kept, weights, b.zero())
    keys = b.where(kept, ids, b.constant(b.n_vocab))
    ids, order = b.best(keys, count, largest=False)
    running = b.running(b.take(weights, order))
    wanted = b.op("Mul", [UNIFORM.name, b.at(running, count - 1)])
    place = b.count(b.op("LessOrEqual", [running, wanted]))
    # Where the logits are not finite, none is kept; an index must exist all the same.
    return b.take(ids, b.op("Min", [place, b.constant(count - 1)]))


def beyond(b: Nodes, below: str, kept: str, kth: str, count: int) -> str:  # -> bool [R,1]
    """Whether tokens that are not in the shortlist may have to be kept: those like its last one."""
    last = b.at(below, count - 1)
    ends = b.op("Sub", [b.count(kept), b.constant([1])])
    reached = b.op("LessOrEqual", [b.take(below, ends), last])
    tied = b.op("And", [LIMITED.name, b.op("LessOrEqual", [kth, last])])
    return b.op("And", [FILTERED.name, b.op("Or", [reached, tied])])


def score(b: Nodes) -> None:
    """As `gpt2rt.scoring.scoring` does on the host."""
    values, ids = b.most(b.logits, TOP.name)
    values, logits = b.wide(values), b.wide(b.logits)
    largest = b.at(values, 0)
    weights = b.op("Exp", [b.op("Sub", [logits, largest])])
    mass = b.op("Log", [b.sum(weights)])
    normaliser = b.op("Add", [mass, largest])
    own = b.take(logits, TARGET.name)
    above = b.sum(b.wide(b.op("Greater", [logits, own])))
    grouped = b.op("Log", [b.op("MatMul", [weights, group(b.hparams).name])])
    b.op("Sub", [own, normaliser], LOGPROB.name)
    b.op("Cast", [above], RANK.name, to=TensorProto.INT32)
    b.op("Sub", [values, normaliser], TOP_LOGPROBS.name)
    b.op("Sub", [grouped, mass], GROUPED.name)
    b.name(ids, TOP_IDS)


MAKERS: dict[str, Callable[[Nodes], None]] = {
    "greedy": greedy,
    "plain": plain,
    "list": filtered,
    "edit": edited,
    "wide": wide,
    SCORE: score,
}
