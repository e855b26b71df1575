"""What the graphs of a bundle take and give: name, dtype and shape of every input and output.

The exporter declares its graphs by these tables; the runtime binds its arrays by them and holds a
graph that it opens against them.

Letters stand for the sizes that a call chooses: B sequences of S new tokens, R rows whose logits
are wanted, a capacity of C positions (fused) or P past ones and T = P + S in all (standard).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

from gpt2rt.bundles.hparams import HParams

Size = int | str
SHORTLIST = 256  # likeliest tokens that the graph for CUDA gives


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph; `dtype` is NumPy's name of it."""

    name: str
    dtype: str
    shape: tuple[Size, ...]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in a call of these `sizes`."""
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.shape)


Pair = tuple[Port, Port]  # keys and values of a layer

X = Port("X", "int32", ("B", "S"))
POSITION = Port("position", "int32", ("B", "S"))
# Indices into B*S.
ROWS = Port("rows", "int32", ("R",))
# The length of each sequence with its new tokens, less one.
SEQLENS = Port("seqlens_k", "int32", ("B",))
# The longest length, with the new tokens.
TOTAL = Port("total_sequence_length", "int32", ())
# On CUDA: one over the temperature, and a random number in [0, 1).
INVERSE_TEMPERATURE = Port("heat", "float32", ("R",))
UNIFORM = Port("uniform", "float32", ("R",))
# On CUDA: the sum of exp((logit - largest) * inverse temperature), and the token that the random
# number falls on.
NORMALISER = Port("mass", "float32", ("R",))
DRAWN = Port("drawn", "int64", ("R",))


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs and outputs of a graph; keys and values stand apart, a pair a layer."""

    arguments: tuple[Port, ...]
    results: tuple[Port, ...]
    past: tuple[Pair, ...] = ()
    present: tuple[Pair, ...] = ()

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (*self.arguments, *chain.from_iterable(self.past))

    @property
    def outputs(self) -> tuple[Port, ...]:
        return (*self.results, *chain.from_iterable(self.present))


def logits(hparams: HParams) -> Port:
    return Port("logits", "float32", ("R", hparams.n_vocab))


def best(hparams: HParams) -> Pair:
    """On CUDA: the logits of the `SHORTLIST` likeliest tokens in order, and their ids."""
    shape = ("R", min(SHORTLIST, hparams.n_vocab))
    return Port("best_logits", "float32", shape), Port("best", "int64", shape)


def _pairs(when: str, hparams: HParams, dtype: str) -> tuple[Pair, ...]:
    """Keys and values, which may be the same buffers before and after a call."""
    shape = ("B", hparams.n_head, "C", hparams.kv_width)
    layers = range(hparams.n_layer)
    return tuple(
        (Port(f"{when}_key.{i}", dtype, shape), Port(f"{when}_value.{i}", dtype, shape))
        for i in layers
    )


def fused(hparams: HParams) -> Interface:
    """Of the graph for CPUs, whose keys and values grow in place."""
    return Interface(
        (X, POSITION, ROWS, SEQLENS, TOTAL),
        (logits(hparams),),
        _pairs("past", hparams, "float32"),
        _pairs("present", hparams, "float32"),
    )


def cuda(hparams: HParams) -> Interface:
    """Of the graph for CUDA, which also chooses the next token."""
    return Interface(
        (X, POSITION, ROWS, SEQLENS, TOTAL, INVERSE_TEMPERATURE, UNIFORM),
        (logits(hparams), *best(hparams), NORMALISER, DRAWN),
        _pairs("past", hparams, "float16"),
        _pairs("present", hparams, "float16"),
    )


def past(hparams: HParams) -> Port:
    """OpenAI's combined past, of the standard graph."""
    shape = ("B", hparams.n_layer, 2, hparams.n_head, "P", hparams.head_width)
    return Port("past", "float32", shape)


def present(hparams: HParams) -> Port:
    """OpenAI's combined present, of the standard graph."""
    shape = ("B", hparams.n_layer, 2, hparams.n_head, "T", hparams.head_width)
    return Port("present", "float32", shape)


def standard(hparams: HParams) -> Interface:
    """Of the graph in plain ONNX, which gives the logits after every token."""
    every = Port("logits", "float32", ("B", "S", hparams.n_vocab))
    return Interface((X, past(hparams)), (every, present(hparams)))


INTERFACES: dict[str, Callable[[HParams], Interface]] = {
    "fused": fused,
    "standard": standard,
    "cuda": cuda,
}


def hidden(hparams: HParams, graph: str) -> tuple[Port, ...]:
    """Outputs of the embedding graph: from the embeddings (0) to those after ln_f (n_layer)."""
    tokens: tuple[Size, ...] = ("M",) if graph == "fused" else ("B", "S")
    shape = (*tokens, hparams.n_embd)
    return tuple(Port(f"hidden.{i}", "float32", shape) for i in range(hparams.n_layer + 1))
