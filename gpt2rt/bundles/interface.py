"""The inputs and outputs of a bundle's graphs: the name, dtype and shape of each.

The exporter declares its graphs by these tables; the runtime binds its arrays by them and checks
every graph that it opens.

Letters are sizes that differ from call to call. Fused: T new tokens in all, each with a slot and a
position, R rows whose logits are wanted, S slots of C positions. CUDA: B sequences of S new tokens
each, R rows, a cache of C positions. Portable: the same, with buffers of C positions. Standard: B
sequences of S new tokens each, P past positions and T = P + S in all.

The CUDA graph ends in logits. Its tails are graphs without weights that read these on the device:
they choose a token for every row, in one of the ways `CHOICES`, or score one (`SCORE`). Another
graph ends in hidden states, and its tail gives P weighted sums of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from gpt2rt.bundles.hparams import HParams

Size = int | str
KNOWN = 8  # shapes whose tables are kept: a call of a graph asks for them
SHORTLIST = 256  # likeliest tokens among which filters choose on CUDA


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
# Of the portable graph: how many positions of each sequence are there before the call.
LENGTHS = Port("lengths", "int32", ("B", 1))
# The rows whose logits are wanted, as indices into the T (or B*S) new tokens.
ROWS = Port("rows", "int32", ("R",))
# For each sequence: its length including the new tokens, minus one.
SEQLENS = Port("seqlens_k", "int32", ("B",))
# The greatest length, including the new tokens.
TOTAL = Port("total_sequence_length", "int32", ())
# Of the CUDA graph: what is to be subtracted from its logits, unless only differences count.
OFFSET = Port("offset", "float32", ("R", 1))

# Of the tails on CUDA. One over the temperature, and a random number in [0, 1).
INVERSE_TEMPERATURE = Port("inverse_temperature", "float32", ("R", 1))
UNIFORM = Port("uniform", "float32", ("R", 1))
# Whether any filter is used. Top-k: whether it is, and the place of the k-th in the shortlist (the
# last one without top-k). Top-p is 2 where it is not used, min-p 0.
FILTERED = Port("filtered", "bool", ("R", 1))
LIMITED = Port("limited", "bool", ("R", 1))
KTH = Port("kth", "int64", ("R", 1))
TOP_P = Port("top_p", "float32", ("R", 1))
MIN_P = Port("min_p", "float32", ("R", 1))
# Changes of logits: tokens of each row, to whose logits a bias is added, which are then divided by
# the factor if positive, else multiplied, and reduced by what is off. A token that comes twice has
# the same changes each time.
IDS = Port("ids", "int64", ("R", "N"))
BIAS = Port("bias", "float32", ("R", "N"))
FACTOR = Port("factor", "float32", ("R", "N"))
OFF = Port("off", "float32", ("R", "N"))
# Random numbers in [0, 1): each falls on a token, and the first that the filters keep is taken.
TRIES = Port("tries", "float32", ("R", 4))
# A number that is finite if the row's logits are: the largest logit, or the sum of
# exp((logit - largest) * inverse temperature).
LARGEST = Port("largest", "float16", ("R", 1))
NORMALISER = Port("normaliser", "float32", ("R", 1))
# The token chosen; -1: not to be told from the shortlist.
CHOSEN = Port("chosen", "int64", ("R", 1))

# Of the tail that scores. The token to be scored in each row, and how many of the likeliest are
# returned (on the host).
TARGET = Port("target", "int64", ("R", 1))
TOP = Port("top", "int64", (1,))
# The log-probability of the target, the number of likelier tokens, the likeliest ones with theirs,
# and the log-probability of any token of the group.
LOGPROB = Port("logprob", "float32", ("R", 1))
RANK = Port("rank", "int32", ("R", 1))
TOP_IDS = Port("top_ids", "int64", ("R", "K"))
TOP_LOGPROBS = Port("top_logprobs", "float32", ("R", "K"))
GROUPED = Port("grouped", "float32", ("R", 1))


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
    """The logits of the wanted rows, the output of the fused graph."""
    return Port("logits", "float32", ("R", hparams.n_vocab))


def centred(hparams: HParams) -> Port:
    """The logits of the wanted rows without their `OFFSET`, an output of the CUDA graph."""
    return Port("logits", "float16", ("R", hparams.n_vocab))


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
    """The interface of the CUDA graph."""
    return Interface(
        (X, POSITION, ROWS, SEQLENS, TOTAL),
        (centred(hparams), OFFSET),
        _pairs("past", hparams, "float16", "B"),
        _pairs("present", hparams, "float16", "B"),
    )


@lru_cache(maxsize=KNOWN)
def portable(hparams: HParams) -> Interface:
    """The interface of the portable graph, which returns the keys and values of new tokens only."""
    shape = ("B", hparams.n_head, "S", hparams.kv_width)
    new = tuple(
        (Port(f"key.{i}", "float32", shape), Port(f"value.{i}", "float32", shape))
        for i in range(hparams.n_layer)
    )
    arguments = (X, POSITION, LENGTHS, ROWS)
    return Interface(arguments, (logits(hparams),), _pairs("past", hparams, "float32", "B"), new)


FILTERS = (INVERSE_TEMPERATURE, UNIFORM, FILTERED, LIMITED, KTH, TOP_P, MIN_P)
# The tails that choose tokens: their inputs beside the logits, and what tells whether these are
# finite. From the cheapest to the one that can do all; "wide" comes after "list", for those rows
# whose tokens it could not tell.
CHOICES: dict[str, tuple[tuple[Port, ...], Port]] = {
    "greedy": ((), LARGEST),
    "plain": ((INVERSE_TEMPERATURE, UNIFORM), NORMALISER),
    "list": (FILTERS, NORMALISER),
    "wide": ((INVERSE_TEMPERATURE, TOP_P, MIN_P, TRIES), NORMALISER),
    "edit": ((OFFSET, *FILTERS, IDS, BIAS, FACTOR, OFF), NORMALISER),
}


SCORE = "score"


def group(hparams: HParams) -> Port:
    """1 for the tokens of a group, 0 for others: an input of the tail that scores."""
    return Port("group", "float32", (hparams.n_vocab, 1))


@lru_cache(maxsize=KNOWN)
def tail(hparams: HParams, kind: str) -> Interface:
    """The interface of a tail of the CUDA graph, whose first input are the logits."""
    if kind == SCORE:
        return Interface(
            (centred(hparams), TARGET, TOP, group(hparams)),
            (LOGPROB, RANK, TOP_IDS, TOP_LOGPROBS, GROUPED),
        )
    settings, finite = CHOICES[kind]
    return Interface((centred(hparams), *settings), (finite, CHOSEN))


# The weights of the states of each sequence, for each of P sums of them.
POOL_WEIGHTS = Port("weights", "float32", ("B", "P", "S"))


def half_states(hparams: HParams, name: str = "states") -> Port:
    """Hidden states on a device."""
    return Port(name, "float16", ("B", "S", hparams.n_embd))


@lru_cache(maxsize=KNOWN)
def states(hparams: HParams) -> Interface:
    """The interface of the CUDA graph of hidden states: of every layer, after every token."""
    return Interface(
        (X, POSITION, SEQLENS, TOTAL),
        tuple(half_states(hparams, f"hidden.{i}") for i in range(hparams.n_layer + 1)),
        _pairs("past", hparams, "float16", "B"),
        _pairs("present", hparams, "float16", "B"),
    )


@lru_cache(maxsize=KNOWN)
def pool(hparams: HParams) -> Interface:
    """The interface of the graph that sums hidden states on a device by their weights."""
    sums = Port("sums", "float32", ("B", "P", hparams.n_embd))
    return Interface((half_states(hparams), POOL_WEIGHTS), (sums,))


def _interface_of(kind: str) -> Callable[[HParams, str], Interface]:
    return lambda hparams, kv: tail(hparams, kind)


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
    "states": lambda hparams, kv: states(hparams),
    "pool": lambda hparams, kv: pool(hparams),
    "portable": lambda hparams, kv: portable(hparams),
    **{kind: _interface_of(kind) for kind in (*CHOICES, SCORE)},
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
