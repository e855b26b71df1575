"""The largest of many values, found without partitioning all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP = 32  # most values of a group
SPREAD = 4  # least groups for each value that is wanted, so that few groups have two of them


def kth_largest(values: NDArray[Any], k: int) -> Any:
    """The k-th largest of values [n] without NaN, for k of 1 to n.

    k groups have maxima of at least the k-th largest maximum, so at least k values reach it, and it
    is the one unless k values exceed it: only those are partitioned. Ten times as fast as
    `np.partition` for 40 of 50,257, which is slow, too, where most tokens are ruled out.
    """
    group = min(GROUP, len(values) // (SPREAD * k))
    if group > 1:
        whole = len(values) // group * group
        maxima = values[:whole].reshape(group, -1).max(axis=0)
        bound = np.partition(maxima, -k)[-k]
        values = values[values > bound]
        if len(values) < k:
            return bound
    return np.partition(values, -k)[-k]


def largest(values: NDArray[Any], k: int) -> NDArray[np.int64]:
    """The places of the k (or all) largest of values [n] without NaN, the largest first.

    Of equal values the one at the lower place comes first.
    """
    k = min(k, len(values))
    if not k:
        return np.empty(0, np.int64)
    last = kth_largest(values, k)
    above = np.flatnonzero(values > last)
    above = above[np.lexsort((above, -values[above]))]
    # Not sorted: where most tokens are ruled out, nearly all values are equal.
    return np.concatenate([above, np.flatnonzero(values == last)[: k - len(above)]])
