"""Hidden states, by the embedding graph of a bundle of either kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import POSITION, ROWS, SEQLENS, TOTAL, X, hidden, past
from gpt2rt.engine.session import run

if TYPE_CHECKING:
    import onnxruntime as ort


def hidden_states(
    session: ort.InferenceSession,
    hparams: HParams,
    tokens: NDArray[np.int32],
    layers: Sequence[int],
) -> list[NDArray[np.float32]]:
    """Hidden states [B,S,n_embd] float32 of each of `layers`, for tokens [B,S]."""
    batch, length = tokens.shape
    none = past(hparams)
    values: dict[str, NDArray[Any]] = {
        X.name: tokens,
        POSITION.name: np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
        ROWS.name: np.arange(batch * length, dtype=np.int32),
        SEQLENS.name: np.full(batch, length - 1, np.int32),
        TOTAL.name: np.array(length, np.int32),
        none.name: np.zeros(none.sized({"B": batch, "P": 0}), none.dtype),
    }
    feeds = {value.name: values[value.name] for value in session.get_inputs()}
    outputs = hidden(hparams, "fused")
    found = run(session, [outputs[layer].name for layer in layers], feeds)
    shape = (batch, length, hparams.n_embd)
    return [np.asarray(states, np.float32).reshape(shape) for states in found]
