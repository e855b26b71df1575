"""Hidden states of tokens, computed by the embedding graph of a bundle, whole texts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import POSITIONS, ROWS, SLOTS, TOKENS, X, fused, hidden, past
from gpt2rt.engine.session import kv_type, run
from gpt2rt.engine.slots import Part

if TYPE_CHECKING:
    import onnxruntime as ort

Values = dict[str, NDArray[Any]]


def hidden_states(
    session: ort.InferenceSession,
    hparams: HParams,
    tokens: NDArray[np.int32],
    layers: Sequence[int],
) -> list[NDArray[np.float32]]:
    """The hidden states of each of `layers`, float32 [B, S, n_embd], for tokens int32 [B, S].

    Layer 0 is the embeddings, n_layer the output of ln_f. Raises `BadBundle`.
    """
    flat = TOKENS.name in {value.name for value in session.get_inputs()}
    values = _flat(session, hparams, tokens) if flat else _standard(hparams, tokens)
    feeds = {value.name: values[value.name] for value in session.get_inputs()}
    outputs = hidden(hparams, "fused" if flat else "standard")
    found = run(session, [outputs[layer].name for layer in layers], feeds)
    shape = (*tokens.shape, hparams.n_embd)
    return [np.asarray(states, np.float32).reshape(shape) for states in found]


def whole_texts(
    session: ort.InferenceSession, hparams: HParams, layer: int, parts: Sequence[Part]
) -> NDArray[np.float32]:
    """The hidden states after all tokens of the parts, float32 [R, n_embd], of a standard graph.

    It returns no past, so each part is a text from its beginning. Raises `BadBundle`.
    """
    assert all(part.start == 0 for part in parts), "a text is read whole"
    texts = (np.array([part.tokens], np.int32) for part in parts)
    return np.concatenate([hidden_states(session, hparams, text, [layer])[0][0] for text in texts])


def _flat(session: ort.InferenceSession, hparams: HParams, tokens: NDArray[np.int32]) -> Values:
    """The inputs of the graph beside a fused one: a slot for each text, with nothing in it."""
    batch, length = tokens.shape
    kv = kv_type(session)
    none = np.zeros((batch, hparams.n_head, length, hparams.kv_width), kv)
    return {
        TOKENS.name: tokens.reshape(-1),
        SLOTS.name: np.repeat(np.arange(batch, dtype=np.int32), length),
        POSITIONS.name: np.tile(np.arange(length, dtype=np.int32), batch),
        ROWS.name: np.arange(batch * length, dtype=np.int32),
    } | {port.name: none for pair in fused(hparams, kv).past for port in pair}


def _standard(hparams: HParams, tokens: NDArray[np.int32]) -> Values:
    none = past(hparams)
    return {X.name: tokens, none.name: np.zeros(none.sized({"B": len(tokens), "P": 0}), none.dtype)}
