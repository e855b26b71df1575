"""The tails of a bundle's CUDA graph: sessions that choose a token for each row of its logits."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    BIAS,
    CHOSEN,
    FACTOR,
    FILTERED,
    IDS,
    INVERSE_TEMPERATURE,
    KTH,
    LIMITED,
    MIN_P,
    OFF,
    SCORE,
    SHORTLIST,
    TOP_P,
    TRIES,
    UNIFORM,
    tail,
)
from gpt2rt.bundles.manifest import STATES, TAILS
from gpt2rt.engine.cuda.call import Call, Captures
from gpt2rt.engine.cuda.memory import Array, Memory
from gpt2rt.engine.cuda.scores import Group, Ids, Scores
from gpt2rt.engine.providers import Threads, open_session, provider_of
from gpt2rt.engine.session import interface_mismatch
from gpt2rt.errors import BadBundle
from gpt2rt.sampling.selection import BEST, Draw

if TYPE_CHECKING:
    import onnxruntime as ort

LARGEST_SHARE = 1 - 2**-23  # of a sum, so that in float32 it is below the sum
NO_TOP_P = 2.0  # no sum reaches twice the sum of all
LEAST_CHANGES = 32  # for which there is room


class Tail:
    """A tail over the results of a call, whose `addresses` on the device have their names."""

    def __init__(
        self, call: Call, hparams: HParams, kind: str, addresses: Mapping[str, int]
    ) -> None:
        arguments = tail(hparams, kind).arguments
        settings = [port for port in arguments if port.name not in addresses]
        self._finite, _ = results = tail(hparams, kind).results
        self._call, self._n_vocab = call, hparams.n_vocab
        self._sent = call.frame(settings) if settings else None
        self._settled: object = None
        self._found = call.frame(results)
        places = addresses if self._sent is None else {**addresses, **self._sent.addresses}
        for port in arguments:
            call.read(port, places[port.name])
        for port in results:
            call.write(port, self._found.addresses[port.name])

    def capture(self) -> None:
        """Replay it as a CUDA graph from its next run on."""
        self._call.capture()

    @property
    def address(self) -> int:
        """Where the tokens of all rows lie on the device, int64 [R,1]."""
        return self._found.addresses[CHOSEN.name]

    def choose(self, rows: Sequence[int], draws: Sequence[Draw]) -> None:
        """Have the tokens of some rows chosen, after what is queued."""
        if self._sent is not None:
            arrays = self._sent.arrays
            for name, values in self._values(rows, draws, arrays).items():
                arrays[name][rows] = values.reshape(len(draws), -1)
            self._sent.send()
        self._call.run()
        self._found.fetch()

    def chosen(self, rows: Sequence[int]) -> Array:
        """The tokens of some rows, int64 [n], when they are there; -1: the device cannot tell."""
        found = self._found.arrays
        finite, chosen = (found[port.name][rows, 0] for port in (self._finite, CHOSEN))
        return np.where(np.isfinite(finite), chosen, -1)

    def _values(
        self, rows: Sequence[int], draws: Sequence[Draw], wanted: Container[str]
    ) -> dict[str, Array]:
        """The inputs for draws that are not as in the last call, by their names."""
        values: dict[str, Array] = {}
        filters = [(draw.inverse_temperature, *draw[2:5]) for draw in draws]
        if self._settled != (rows, filters):
            self._settled = [*rows], filters
            values |= settings(filters, self._n_vocab)
        if UNIFORM.name in wanted:
            values[UNIFORM.name] = np.minimum([draw.uniform for draw in draws], LARGEST_SHARE)
        if IDS.name in wanted:
            values |= changes(draws, self._call.sizes["N"])
        if TRIES.name in wanted:
            values[TRIES.name] = np.minimum([draw.tries for draw in draws], LARGEST_SHARE)
        return {name: array for name, array in values.items() if name in wanted}


def settings(filters: Sequence[tuple[float, ...]], n_vocab: int) -> dict[str, Array]:
    """Inverse temperatures, top-k, top-p and min-p as the inputs of tails, by their names."""
    heat, top_k, top_p, min_p = np.array(filters, np.float64).T
    limited, nucleus = (top_k > 0) & (top_k < n_vocab), top_p < 1
    last = min(SHORTLIST, n_vocab)
    return {
        INVERSE_TEMPERATURE.name: heat,
        FILTERED.name: limited | nucleus | (min_p > 0),
        LIMITED.name: limited,
        KTH.name: np.where(limited, np.minimum(top_k, last), last) - 1,
        TOP_P.name: np.where(nucleus, top_p, NO_TOP_P),
        MIN_P.name: min_p,
    }


def changes(draws: Sequence[Draw], width: int) -> dict[str, Array]:
    """The changes of logits of each draw as inputs of a tail [R,width], by their names.

    They are filled up with the first change again, or, where there are none, with such as change
    nothing.
    """
    ids = np.zeros((len(draws), width), np.int64)
    bias, factor, off = np.zeros(ids.shape), np.ones(ids.shape), np.zeros(ids.shape)
    for number, draw in enumerate(draws):
        if draw.changes is not None and (count := len(draw.changes.ids)):
            for array, values in (
                (ids, draw.changes.ids),
                (bias, draw.changes.bias),
                (factor, draw.changes.factor),
                (off, draw.changes.off),
            ):
                array[number, :count] = values
                array[number, count:] = values[0]
    return {IDS.name: ids, BIAS.name: bias, FACTOR.name: factor, OFF.name: off}


def width_for(draws: Sequence[Draw]) -> int:
    """For how many changes of each row a tail needs room: a power of two; 0 if no row has any."""
    counts = [len(draw.changes.ids) for draw in draws if draw.changes is not None]
    return 1 << (max(LEAST_CHANGES, *counts) - 1).bit_length() if counts else 0


class Tails:
    """The tails of the bundle in `directory`, which are opened when they are first needed."""

    def __init__(
        self,
        directory: Path,
        hparams: HParams,
        beside: ort.InferenceSession,
        memory: Memory,
        captures: Captures,
    ) -> None:
        """`beside` is the session of the CUDA graph; the tails run as it does."""
        self._directory, self._hparams = directory, hparams
        self._threads = Threads(beside.get_session_options().intra_op_num_threads)
        self._provider = provider_of(beside)
        self._memory, self._captures = memory, captures
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._opening = Lock()
        self._groups: list[Group] = []

    @staticmethod
    def kind_for(draws: Sequence[Draw]) -> str:
        """The cheapest tail that can choose as all `draws` say."""
        if any(draw.changes is not None for draw in draws):
            return "edit"
        if any(draw.filtered for draw in draws):
            return "list"
        return "plain" if any(draw != BEST for draw in draws) else "greedy"

    def tail(self, kind: str, width: int, addresses: Mapping[str, int], rows: int) -> Tail:
        """A tail over that many rows of logits, with room for `width` changes of each.

        `addresses` are those of the results of the CUDA graph, by their names. Raises `BadBundle`,
        `ProviderMissing`.
        """
        sizes = {"R": rows, "N": width}
        call = Call(self.session(kind), self._memory, self._captures, sizes)
        return Tail(call, self._hparams, kind, addresses)

    def group(self, tokens: Ids | None) -> Group:
        """A group of tokens on the device; the last two are kept."""
        for group in self._groups:
            if group.tokens is tokens:
                return group
        self._groups = [Group(self._hparams, self._memory, tokens), *self._groups[:1]]
        return self._groups[0]

    def scores(self, address: int, rows: int, top: int, group: Group) -> Scores:
        """The tail that scores over that many rows of logits, with `top` alternatives.

        Raises `BadBundle`, `ProviderMissing`.
        """
        sizes = {"R": rows, "K": max(1, top)}
        call = Call(self.session(SCORE), self._memory, self._captures, sizes)
        return Scores(call, self._hparams, address, group)

    @property
    def has_states(self) -> bool:
        """Whether the bundle has graphs for hidden states on a device."""
        return all((self._directory / name).is_file() for name in STATES.values())

    def session(self, kind: str) -> ort.InferenceSession:
        """The session of a kind of graph. Raises `BadBundle`, `ProviderMissing`."""
        with self._opening:
            if kind not in self._sessions:
                self._sessions[kind] = self._opened(kind)
            return self._sessions[kind]

    def _opened(self, kind: str) -> ort.InferenceSession:
        path = self._directory / (TAILS | STATES)[kind]
        with self._memory.lock:
            session = open_session(path, self._threads, self._provider, stream=self._memory.stream)
        if odd := interface_mismatch(session, self._hparams, kind, "float16"):
            raise BadBundle(
                f"{path}: not the graph of the manifest's hparams (look for {odd}); export again"
            )
        return session
