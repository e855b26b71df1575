"""The inputs and outputs of a bundle's graphs: the name, dtype and shape of each.

The exporter declares its graphs by these tables; the runtime binds its arrays by them and checks
every graph that it opens.

Letters are sizes that differ from call to call. Fused: T new tokens in all, each with a slot and a
position, R rows whose logits are wanted, S slots of C positions. CUDA: B sequences of S new tokens
each, R rows, a cache of C positions. Standard: B sequences of S new tokens each, P past positions
and T = P + S in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from gpt2rt.bundles.hparams import HParams

Size = int | str
KNOWN = 8  # shapes whose tables are kept: a call of a graph asks for them
SHORTLIST = 256  # likeliest tokens that the CUDA graph returns


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph; `dtype` is a name of NumPy."""

    name: str
    dtype: str
    shape: tuple[Size, ...]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in a call whose letters have these `sizes`."""
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.shape)


Pair = tuple[Port, Port]  # the keys and the values of a layer

# The fused graph's. A token sees the positions of its own slot up to its own, those of the same
# call included; the tokens of a slot come in the order of their positions.
TOKENS = Port("tokens", "int32", ("T",))
SLOTS = Port("slots", "int32", ("T",))
POSITIONS = Port("positions", "int32", ("T",))

X = Port("X", "int32", ("B", "S"))
POSITION = Port("position", "int32", ("B", "S"))
# The rows whose logits are wanted, as indices into the T (or B*S) new tokens.
ROWS = Port("rows", "int32", ("R",))
# For each sequence: its length including the new tokens, minus one.
SEQLENS = Port("seqlens_k", "int32", ("B",))
# The greatest length, including the new tokens.
TOTAL = Port("total_sequence_length", "int32", ())
# On CUDA, for drawing a token: one over the temperature, and a random number in [0, 1). Exported
# bundles have the names "heat" and "mass", so they stay.
INVERSE_TEMPERATURE = Port("heat", "float32", ("R",))
UNIFORM = Port("uniform", "float32", ("R",))
# On CUDA: the sum of exp((logit - largest) * inverse temperature), and the token that the random
# number falls on.
NORMALISER = Port("mass", "float32", ("R",))
DRAWN = Port("drawn", "int64", ("R",))


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs and outputs of a graph.

    `past` and `present` are the keys and values among them, a pair for each layer.
    """

    arguments: tuple[Port, ...]
    results: tuple[Port, ...]
    past: tuple[Pair, ...] = ()
    present: tuple[Pair, ...] = ()

    @property
    def inputs(self) -> tuple[Port, ...]:
        """All inputs, past keys and values last."""
        return (*self.arguments, *chain.from_iterable(self.past))

    @property
    def outputs(self) -> tuple[Port, ...]:
        """All outputs, present keys and values last."""
        return (*self.results, *chain.from_iterable(self.present))


def logits(hparams: HParams) -> Port:
    """The logits of the wanted rows, an output of the fused and the CUDA graph."""
    return Port("logits", "float32", ("R", hparams.n_vocab))


@lru_cache(maxsize=KNOWN)
def best(hparams: HParams) -> Pair:
    """The logits of the `SHORTLIST` likeliest tokens, best first, and their ids (CUDA graph)."""
    shape = ("R", min(SHORTLIST, hparams.n_vocab))
    return Port("best_logits", "float32", shape), Port("best", "int64", shape)


def _pairs(when: str, hparams: HParams, dtype: str, slots: str) -> tuple[Pair, ...]:
    """The keys and values of each layer; past and present may be bound to the same buffers."""
    shape = (slots, hparams.n_head, "C", hparams.kv_width)
    layers = range(hparams.n_layer)
    return tuple(
        (Port(f"{when}_key.{i}", dtype, shape), Port(f"{when}_value.{i}", dtype, shape))
        for i in layers
    )


@lru_cache(maxsize=KNOWN)
def fused(hparams: HParams, kv: str) -> Interface:
    """The interface of the fused graph for CPUs, which appends keys and values of dtype `kv`."""
    return Interface(
        (TOKENS, SLOTS, POSITIONS, ROWS),
        (logits(hparams),),
        _pairs("past", hparams, kv, "S"),
        _pairs("present", hparams, kv, "S"),
    )


@lru_cache(maxsize=KNOWN)
def cuda(hparams: HParams) -> Interface:
    """The interface of the CUDA graph, which also draws the next token."""
    return Interface(
        (X, POSITION, ROWS, SEQLENS, TOTAL, INVERSE_TEMPERATURE, UNIFORM),
        (logits(hparams), *best(hparams), NORMALISER, DRAWN),
        _pairs("past", hparams, "float16", "B"),
        _pairs("present", hparams, "float16", "B"),
    )


def past(hparams: HParams) -> Port:
    """OpenAI's combined past, an input of the standard graph."""
    shape = ("B", hparams.n_layer, 2, hparams.n_head, "P", hparams.head_width)
    return Port("past", "float32", shape)


def present(hparams: HParams) -> Port:
    """OpenAI's combined present, an output of the standard graph."""
    shape = ("B", hparams.n_layer, 2, hparams.n_head, "T", hparams.head_width)
    return Port("present", "float32", shape)


def standard(hparams: HParams) -> Interface:
    """The interface of the standard graph (plain ONNX), which gives logits after every token."""
    every = Port("logits", "float32", ("B", "S", hparams.n_vocab))
    return Interface((X, past(hparams)), (every, present(hparams)))


INTERFACES: dict[str, Callable[[HParams, str], Interface]] = {
    "fused": fused,
    "standard": lambda hparams, kv: standard(hparams),
    "cuda": lambda hparams, kv: cuda(hparams),
}


def hidden(hparams: HParams, graph: str) -> tuple[Port, ...]:
    """The hidden states that the embedding graph beside a `graph` returns.

    `hidden.0` are the embeddings, `hidden.n_layer` what ln_f makes of the wanted rows.
    """
    tokens: tuple[Size, ...] = ("T",) if graph == "fused" else ("B", "S")
    shape = (*tokens, hparams.n_embd)
    return tuple(Port(f"hidden.{i}", "float32", shape) for i in range(hparams.n_layer + 1))


def embedding(hparams: HParams, graph: str, kv: str) -> Interface:
    """The interface of the embedding graph beside a `graph`: the same with hidden states in place
    of logits. The one beside a standard graph returns no past.
    """
    whole = INTERFACES[graph](hparams, kv)
    return Interface(whole.arguments, hidden(hparams, graph), whole.past, whole.present)
