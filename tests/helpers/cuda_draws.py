"""Draws on the device, and the shares by which their tokens are to be chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpt2rt import HParams, SamplingParams
from gpt2rt.sampling.filters import Floats, candidates
from gpt2rt.sampling.selection import BEST, Draw

WIDE = HParams(n_vocab=700, n_ctx=24, n_embd=32, n_head=2, n_layer=2)  # more than the shortlist
FEW = replace(WIDE, n_vocab=200)  # less, and less than a chunk
BOUNDARY = 1e-6  # of a share: float32 and float64 may differ there
SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.3),
    SamplingParams(temperature=2.5),
    SamplingParams(top_k=1),
    SamplingParams(top_k=40, temperature=0.7),
    SamplingParams(top_k=200, top_p=0.8, min_p=0.01),
    SamplingParams(top_k=2000),
    SamplingParams(top_p=0.3),
    SamplingParams(top_p=0.5, temperature=0.6),
    SamplingParams(min_p=0.2),
    SamplingParams(top_p=0.6, min_p=0.1, temperature=0.5),
    SamplingParams(top_k=60, temperature=1e-6),
]


def draw_of(params: SamplingParams, uniform: float) -> Draw:
    filters = params.top_k, params.top_p, params.min_p
    return BEST if params.greedy else Draw(1 / params.temperature, uniform, *filters)


def shares(logits: Floats, params: SamplingParams) -> NDArray[np.float64]:
    """The probability of every token, by NumPy in float64."""
    ids, found = candidates(logits, params)
    weights = np.zeros(len(logits))
    weights[slice(None) if ids is None else ids] = found
    found_shares: NDArray[np.float64] = weights / weights.sum()
    return found_shares


def assert_falls(token: int, draw: Draw, shares: NDArray[np.float64]) -> None:
    """The number of `draw` lies in the token's interval, but for `BOUNDARY`."""
    ends = np.cumsum(shares)
    assert shares[token] > 0
    assert ends[token] - shares[token] - BOUNDARY <= draw.uniform <= ends[token] + BOUNDARY
