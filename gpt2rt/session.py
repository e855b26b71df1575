"""A bundle's graph in ONNX Runtime: tokens in, logits out, the past kept between calls.

A slot is a place for one sequence. Slots come in two kinds, one per graph of `gpt2rt.bundle`, with
the same methods; who sits where, and how long each sequence is, the engine knows. Any number of
them may share one ONNX Runtime session, which holds the weights and no state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundle import SHORTLIST, Tensors
from gpt2rt.errors import BadBundle, Gpt2rtError
from gpt2rt.hparams import HParams
from gpt2rt.kvcache import KVCache, share
from gpt2rt.selection import Draw, Selected

if TYPE_CHECKING:
    import onnxruntime as ort

Logits = NDArray[np.float32]
KeysValues = NDArray[np.floating[Any]]  # float32, on CUDA float16

# Positions read at once before those whose logits are wanted: in pieces a long prompt takes less
# memory and less time. A multiple of the 128 rows of flash attention's blocks: no bit changes.
PIECE = 256
KEPT_BINDINGS = 32  # of short reads of one slot, such as a draft's proposals


class Slots(Protocol):
    """What the engine asks of a graph."""

    count: int

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        """Append `tokens` to the `length` positions of `slot`.

        Returns logits float32 [R, n_vocab] after each of the tokens `rows` (indices into `tokens`;
        None: the last), good until the next call.
        """

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits | Selected:
        """One more token for each of the slots 0, 1, ..., which hold `lengths` positions.

        Returns logits float32 [len(tokens), n_vocab], good until the next call; from a device only
        what was selected there, where tokens are also drawn by `draws`.
        """

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        """Tokens [B,S] for the slots 0 to B-1, which hold `length` positions: none, or B is 1.

        Returns logits float32 [R, n_vocab] after each of the tokens `rows` (indices into B*S), good
        until the next call.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot become those of another."""

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        """A copy of the keys and values of some positions of a slot, as `write` takes it."""

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        """Make `kv` the keys and values from position `start` on, after which the slot ends."""


def _run(
    session: ort.InferenceSession, names: list[str], feeds: dict[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    try:
        return list(session.run(names, feeds))
    except Gpt2rtError:
        raise
    except Exception as error:  # ONNX Runtime's have no common base
        raise failed(error) from error


def failed(error: Exception) -> BadBundle:
    reason = " ".join(str(error).split())[:300]
    return BadBundle(f"ONNX Runtime cannot run the graph ({reason}); export the bundle again")


class Binding:
    """One shape of call to the fused graph: its input arrays, bound once and written in place."""

    def __init__(
        self,
        session: ort.InferenceSession,
        hparams: HParams,
        cache: list[tuple[ort.OrtValue, ort.OrtValue]],
        shape: tuple[int, int],
        rows: int,
        logits: Logits | None = None,
    ) -> None:
        self._session = session
        batch = shape[0]
        self.X = np.zeros(shape, np.int32)
        self.position = np.zeros(shape, np.int32)
        self.rows = np.arange(rows, dtype=np.int32)
        self.seqlens = np.zeros(batch, np.int32)
        self.total = np.zeros((), np.int32)
        self.logits = np.empty((rows, hparams.n_vocab), np.float32) if logits is None else logits
        self._cache = cache
        self._binding = session.io_binding()
        inputs: dict[str, NDArray[Any]] = {
            Tensors.X: self.X,
            Tensors.POSITION: self.position,
            Tensors.ROWS: self.rows,
            Tensors.SEQLENS: self.seqlens,
            Tensors.TOTAL: self.total,
        }
        self._values = [share(array) for array in (*inputs.values(), self.logits)]
        for name, value in zip((*inputs, Tensors.LOGITS), self._values, strict=True):
            if name == Tensors.LOGITS:
                self._binding.bind_ortvalue_output(name, value)
            else:
                self._binding.bind_ortvalue_input(name, value)
        for layer, pair in enumerate(cache):
            for past, present, value in zip(
                Tensors.past(layer), Tensors.present(layer), pair, strict=True
            ):
                self._binding.bind_ortvalue_input(past, value)
                self._binding.bind_ortvalue_output(present, value)

    def run(self) -> Logits:
        try:
            self._session.run_with_iobinding(self._binding)
        except Gpt2rtError:
            raise
        except Exception as error:  # ONNX Runtime's have no common base
            raise failed(error) from error
        return self.logits


class FusedSlots:
    """The fused graph over shared KV buffers. A decode step allocates and copies nothing."""

    def __init__(self, session: ort.InferenceSession, hparams: HParams, count: int) -> None:
        self.count = count
        self._hparams = hparams
        self._session = session
        self._cache = KVCache(hparams, count, hparams.n_ctx)
        self._steps: dict[int, Binding] = {}
        self._reads: dict[tuple[int, int], Binding] = {}
        self._logits = np.empty((0, hparams.n_vocab), np.float32)  # of `forward`

    def _bind(
        self, first: int, shape: tuple[int, int], rows: int, logits: Logits | None = None
    ) -> Binding:
        views = self._cache.views(first, shape[0])
        return Binding(self._session, self._hparams, views, shape, rows, logits)

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        if rows is None:
            while len(tokens) > PIECE + 1:  # a single token more goes with the last piece
                self.extend(slot, length, tokens[:PIECE], ())
                length, tokens = length + PIECE, tokens[PIECE:]
        wanted = [len(tokens) - 1] if rows is None else rows
        call = self._reading(slot, len(tokens), len(wanted))
        call.X[0] = tokens
        call.position[0] = np.arange(length, length + len(tokens))
        call.rows[:] = wanted
        call.seqlens[:] = length + len(tokens) - 1
        call.total[...] = length + len(tokens)
        return call.run()

    def _reading(self, slot: int, length: int, rows: int) -> Binding:
        """A call with `length` tokens for one slot; kept where every row is wanted of a few."""
        if rows < length or length > KEPT_BINDINGS:
            return self._bind(slot, (1, length), rows)
        call = self._reads.get((slot, length))
        if call is None:
            if len(self._reads) >= KEPT_BINDINGS:
                self._reads.clear()
            call = self._reads[slot, length] = self._bind(slot, (1, length), rows)
        return call

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits:
        batch = len(tokens)
        call = self._steps.get(batch)
        if call is None:
            call = self._steps[batch] = self._bind(0, (batch, 1), batch)
        call.X[:, 0] = tokens
        call.position[:, 0] = lengths
        call.seqlens[:] = lengths
        call.total[...] = max(lengths) + 1
        return call.run()

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        end = length + tokens.shape[1]
        if len(self._logits) < len(rows):
            self._logits = np.empty((len(rows), self._hparams.n_vocab), np.float32)
        call = self._bind(0, tokens.shape, len(rows), self._logits[: len(rows)])
        call.X[:] = tokens
        call.position[:] = np.arange(length, end)
        call.rows[:] = rows
        call.seqlens[:] = end - 1
        call.total[...] = end
        return call.run()

    def copy(self, source: int, target: int, length: int) -> None:
        self._cache.copy(source, target, length)

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        return self._cache.read(slot, start, end)

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        self._cache.write(slot, start, kv)


class RowwiseSlots(FusedSlots):
    """The fused graph of a precision whose kernel for one row sums in another order than the one
    for several: each row of a step is a call of its own, so that its batch mates change no bit.
    """

    def __init__(self, session: ort.InferenceSession, hparams: HParams, count: int) -> None:
        super().__init__(session, hparams, count)
        self._rows = np.empty((count, hparams.n_vocab), np.float32)
        self._singles: dict[int, Binding] = {}

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits:
        for slot, (length, token) in enumerate(zip(lengths, tokens, strict=True)):
            call = self._singles.get(slot)
            if call is None:
                logits = self._rows[slot : slot + 1]
                call = self._singles[slot] = self._bind(slot, (1, 1), 1, logits)
            call.X[:], call.position[:], call.seqlens[:] = token, length, length
            call.total[...] = length + 1
            call.run()
        return self._rows[: len(tokens)]


class StandardSlots:
    """The standard graph: plain ONNX, the combined past copied at every step, a row at a time."""

    def __init__(self, session: ort.InferenceSession, hparams: HParams, count: int) -> None:
        self.count = count
        self._session = session
        self._hparams = hparams
        self._pasts = [self._none(1) for _ in range(count)]

    def _none(self, batch: int) -> NDArray[np.float32]:
        return np.zeros(self._hparams.past_shape(batch, 0), np.float32)

    def extend(
        self, slot: int, length: int, tokens: Sequence[int], rows: Sequence[int] | None = None
    ) -> Logits:
        wanted = [len(tokens) - 1] if rows is None else list(rows)
        feeds = {
            Tensors.X: np.asarray([tokens], np.int32),
            Tensors.PAST: self._pasts[slot][..., :length, :],
        }
        logits, self._pasts[slot] = _run(self._session, [Tensors.LOGITS, Tensors.PRESENT], feeds)
        return np.asarray(logits[0, wanted], np.float32)

    def advance(
        self, lengths: Sequence[int], tokens: Sequence[int], draws: Sequence[Draw] = ()
    ) -> Logits:
        steps = enumerate(zip(lengths, tokens, strict=True))
        return np.concatenate([self.extend(slot, n, [token]) for slot, (n, token) in steps])

    def forward(self, tokens: NDArray[np.int32], length: int, rows: Sequence[int]) -> Logits:
        past = self._pasts[0][..., :length, :] if length else self._none(len(tokens))
        feeds = {Tensors.X: tokens, Tensors.PAST: past}
        logits, present = _run(self._session, [Tensors.LOGITS, Tensors.PRESENT], feeds)
        if len(tokens) == 1:
            self._pasts[0] = present
        return np.asarray(logits.reshape(-1, logits.shape[-1])[list(rows)], np.float32)

    def copy(self, source: int, target: int, length: int) -> None:
        self._pasts[target] = self._pasts[source][..., :length, :]

    def read(self, slot: int, start: int, end: int) -> KeysValues:
        return self._pasts[slot][0, ..., start:end, :].copy()

    def write(self, slot: int, start: int, kv: KeysValues) -> None:
        before = self._pasts[slot][..., :start, :]
        self._pasts[slot] = np.concatenate([before, kv[None]], axis=-2)


# Tensors of a graph and their last sizes, None for those that the shape of the model leaves open.
Shapes = dict[str, tuple[int | None, ...]]


def _fused_shapes(hparams: HParams) -> tuple[Shapes, Shapes]:
    layers = range(hparams.n_layer)
    inputs = (Tensors.X, Tensors.POSITION, Tensors.ROWS, Tensors.SEQLENS, Tensors.TOTAL)
    kv = (hparams.n_head, None, hparams.kv_width)
    pasts = dict.fromkeys(chain.from_iterable(map(Tensors.past, layers)), kv)
    presents = dict.fromkeys(chain.from_iterable(map(Tensors.present, layers)), kv)
    return {**dict.fromkeys(inputs, ()), **pasts}, {Tensors.LOGITS: (hparams.n_vocab,), **presents}


def _standard_shapes(hparams: HParams) -> tuple[Shapes, Shapes]:
    kv = (hparams.n_layer, 2, hparams.n_head, None, hparams.head_width)
    return {Tensors.X: (), Tensors.PAST: kv}, {
        Tensors.LOGITS: (hparams.n_vocab,),
        Tensors.PRESENT: kv,
    }


def _cuda_shapes(hparams: HParams) -> tuple[Shapes, Shapes]:
    inputs, outputs = _fused_shapes(hparams)
    best = (min(SHORTLIST, hparams.n_vocab),)
    selected: Shapes = {Tensors.BEST: best, Tensors.BEST_LOGITS: best}
    drawn: Shapes = dict.fromkeys((Tensors.MASS, Tensors.DRAWN), ())
    asked: Shapes = dict.fromkeys((Tensors.HEAT, Tensors.UNIFORM), ())
    return {**inputs, **asked}, {**outputs, **selected, **drawn}


SHAPES = {"fused": _fused_shapes, "standard": _standard_shapes, "cuda": _cuda_shapes}


def misfit(session: ort.InferenceSession, hparams: HParams, kind: str) -> str | None:
    """What the session's graph has otherwise than such a graph of this shape; None: it fits."""
    inputs, outputs = SHAPES[kind](hparams)
    return _misfit(session.get_inputs(), inputs) or _misfit(session.get_outputs(), outputs)


def hidden_misfit(session: ort.InferenceSession, hparams: HParams) -> str | None:
    """As `misfit`, for the embedding graph of either kind."""
    layers = range(hparams.n_layer + 1)
    wanted: Shapes = dict.fromkeys(map(Tensors.hidden, layers), (hparams.n_embd,))
    return _misfit(session.get_outputs(), wanted)


def _misfit(tensors: Sequence[ort.NodeArg], wanted: Shapes) -> str | None:
    found = {tensor.name: tensor.shape for tensor in tensors}
    if odd := sorted(set(found) ^ set(wanted)):
        return odd[0]
    for name, sizes in wanted.items():
        last = found[name][len(found[name]) - len(sizes) :]
        # A size that the graph leaves open has a name there, or none.
        pairs = zip(last, sizes, strict=False)
        if len(last) < len(sizes) or any(type(f) is int and s not in (None, f) for f, s in pairs):
            return f"{name} {found[name]}"
    return None


SLOTS: dict[str, Callable[[ort.InferenceSession, HParams, int], Slots]] = {
    "fused": FusedSlots,
    "standard": StandardSlots,
}
ROWWISE = ("int4",)  # precisions


def slots_of(graph: str, precision: str) -> Callable[[ort.InferenceSession, HParams, int], Slots]:
    """The slots of a bundle's kind. Raises `KeyError` for an unknown graph."""
    return RowwiseSlots if graph == "fused" and precision in ROWWISE else SLOTS[graph]


def by_itself(graph: str, precision: str) -> bool:
    """Whether each row of a step on the CPU is a call of its own, which reads all weights."""
    return slots_of(graph, precision) is not FusedSlots


def hidden_states(
    session: ort.InferenceSession,
    hparams: HParams,
    tokens: NDArray[np.int32],
    layers: Sequence[int],
) -> list[NDArray[np.float32]]:
    """Hidden states [B, S, n_embd] of each of `layers`, by the embedding graph of either kind."""
    batch, length = tokens.shape
    values: dict[str, NDArray[Any]] = {
        Tensors.X: tokens,
        Tensors.POSITION: np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
        Tensors.ROWS: np.arange(batch * length, dtype=np.int32),
        Tensors.SEQLENS: np.full(batch, length - 1, np.int32),
        Tensors.TOTAL: np.array(length, np.int32),
        Tensors.PAST: np.zeros(hparams.past_shape(batch, 0), np.float32),
    }
    feeds = {value.name: values[value.name] for value in session.get_inputs()}
    found = _run(session, [Tensors.hidden(layer) for layer in layers], feeds)
    shape = (batch, length, hparams.n_embd)
    return [np.asarray(states, np.float32).reshape(shape) for states in found]
