"""Rows of logits, settings, and the distribution that is drawn from."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpt2rt import SamplingParams
from gpt2rt.sampling.filters import candidates

rows = hnp.arrays(np.float32, st.integers(2, 200), elements=st.floats(-30, 30, width=32))
relaxed = settings(derandomize=True)
MIXES = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 40, 500]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    typical_p=st.sampled_from([0.2, 0.9, 1.0]),
    compat=st.sampled_from([None, "openai"]),
)


def dense(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """The distribution that `candidates` describes, over the whole vocabulary."""
    ids, weights = candidates(logits, params)
    whole = np.zeros(len(logits))
    whole[slice(None) if ids is None else ids] = weights
    return np.asarray(whole / whole.sum())
