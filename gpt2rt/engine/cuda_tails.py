"""The tails of a bundle's CUDA graph: sessions that choose a token for each row of its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import (
    CHOSEN,
    FILTERED,
    INVERSE_TEMPERATURE,
    KTH,
    LIMITED,
    MIN_P,
    SCORE,
    SHORTLIST,
    TOP_P,
    UNIFORM,
    tail,
)
from gpt2rt.bundles.manifest import TAILS
from gpt2rt.engine.cuda_call import Call, Captures
from gpt2rt.engine.cuda_memory import Array, Memory
from gpt2rt.engine.cuda_scores import Group, Ids, Scores
from gpt2rt.engine.providers import Threads, open_session, provider_of
from gpt2rt.engine.session import interface_mismatch
from gpt2rt.errors import BadBundle
from gpt2rt.sampling.selection import BEST, Draw

if TYPE_CHECKING:
    import onnxruntime as ort

LARGEST_SHARE = 1 - 2**-23  # of a sum, so that in float32 it is below the sum
NO_TOP_P = 2.0  # no sum reaches twice the sum of all


class Tail:
    """A tail over the logits of a call, which lie on the device at `address`."""

    def __init__(self, call: Call, hparams: HParams, kind: str, address: int) -> None:
        logits, *settings = tail(hparams, kind).arguments
        self._finite, _ = results = tail(hparams, kind).results
        self._call, self._n_vocab = call, hparams.n_vocab
        self._sent = call.frame(settings) if settings else None
        self._found = call.frame(results)
        call.read(logits, address)
        if self._sent is not None:
            for port in settings:
                call.read(port, self._sent.addresses[port.name])
        for port in results:
            call.write(port, self._found.addresses[port.name])

    def capture(self) -> None:
        """Replay it as a CUDA graph from its next run on."""
        self._call.capture()

    def choose(self, rows: Sequence[int], draws: Sequence[Draw]) -> Array:
        """The tokens of some rows, int64 [n]; -1 where the device cannot tell."""
        if self._sent is not None:
            values = settings(draws, self._n_vocab)
            for name, array in self._sent.arrays.items():
                array[rows, 0] = values[name]
            self._sent.send()
        self._call.run()
        self._found.fetch()
        found = self._found.arrays
        finite, chosen = (found[port.name][rows, 0] for port in (self._finite, CHOSEN))
        return np.where(np.isfinite(finite), chosen, -1)


def settings(draws: Sequence[Draw], n_vocab: int) -> Mapping[str, Array]:
    """Draws as the inputs of tails, by their names; each has a value for every draw."""
    heat, uniform, top_k, top_p, min_p = np.array(draws, np.float64).reshape(-1, len(BEST)).T
    limited, nucleus = (top_k > 0) & (top_k < n_vocab), top_p < 1
    last = min(SHORTLIST, n_vocab)
    return {
        INVERSE_TEMPERATURE.name: heat,
        UNIFORM.name: np.minimum(uniform, LARGEST_SHARE),
        FILTERED.name: limited | nucleus | (min_p > 0),
        LIMITED.name: limited,
        KTH.name: np.where(limited, np.minimum(top_k, last), last) - 1,
        TOP_P.name: np.where(nucleus, top_p, NO_TOP_P),
        MIN_P.name: min_p,
    }


class Tails:
    """The tails of the bundle in `directory`, which are opened when they are first needed."""

    def __init__(
        self,
        directory: Path,
        hparams: HParams,
        body: ort.InferenceSession,
        memory: Memory,
        captures: Captures,
    ) -> None:
        """`body` is the session of the CUDA graph; the tails run as it does."""
        self._directory, self._hparams = directory, hparams
        self._threads = Threads(body.get_session_options().intra_op_num_threads)
        self._provider = provider_of(body)
        self._memory, self._captures = memory, captures
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._opening = Lock()
        self._group: Group | None = None

    @staticmethod
    def kind_for(draws: Sequence[Draw]) -> str:
        """The cheapest tail that can choose as all `draws` say."""
        if any(draw.filtered for draw in draws):
            return "list"
        return "plain" if any(draw != BEST for draw in draws) else "greedy"

    def tail(self, kind: str, address: int, rows: int) -> Tail:
        """A tail over that many rows of logits, which lie on the device at `address`.

        Raises `BadBundle`, `ProviderMissing`.
        """
        call = Call(self._session(kind), self._memory, self._captures, {"R": rows})
        return Tail(call, self._hparams, kind, address)

    def scores(self, address: int, rows: int, top: int, tokens: Ids | None) -> Scores:
        """The tail that scores over that many rows of logits, with `top` alternatives.

        `tokens` are those of a group. Raises `BadBundle`, `ProviderMissing`.
        """
        if self._group is None or self._group.tokens is not tokens:
            self._group = Group(self._hparams, self._memory, tokens)
        sizes = {"R": rows, "K": max(1, top)}
        call = Call(self._session(SCORE), self._memory, self._captures, sizes)
        return Scores(call, self._hparams, address, self._group)

    def _session(self, kind: str) -> ort.InferenceSession:
        with self._opening:
            if kind not in self._sessions:
                self._sessions[kind] = self._opened(kind)
            return self._sessions[kind]

    def _opened(self, kind: str) -> ort.InferenceSession:
        path = self._directory / TAILS[kind]
        with self._memory.lock:
            session = open_session(path, self._threads, self._provider)
        if odd := interface_mismatch(session, self._hparams, kind, "float16"):
            raise BadBundle(
                f"{path}: not the graph of the manifest's hparams (look for {odd}); export again"
            )
        return session
