"""The memory that keys and values take, and the memory that is available."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import InvalidSetting

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def slot_bytes(hparams: HParams, kv: str) -> int:
    """Bytes of the keys and values, of dtype `kv`, of a sequence of n_ctx tokens.

    38 MB for 117M and float16.
    """
    width = hparams.n_head * hparams.kv_width * np.dtype(kv).itemsize
    return 2 * hparams.n_layer * hparams.n_ctx * width


def available() -> int | None:
    """Bytes that this process can still allocate, within its cgroup; None: not known."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = MEMINFO.read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) << 10)
    with suppress(OSError, ValueError):  # "max" is no limit
        limit = int((CGROUP / "memory.max").read_text())
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = int((CGROUP / "memory.current").read_text()) - int(counts.get("inactive_file", 0))
        found.append(max(0, limit - used))
    return min(found, default=None)


def check(hparams: HParams, kv: str, slots: int) -> None:
    """Raises `InvalidSetting` if that many sequences of n_ctx tokens exceed the memory."""
    room, each = available(), slot_bytes(hparams, kv)
    if room is not None and slots * each > room:
        raise InvalidSetting(
            f"{slots:,} sequences side by side take up to {slots * each / 1e6:,.0f} MB of keys and "
            f"values ({each / 1e6:,.1f} MB each), {room / 1e6:,.0f} MB are free; choose a "
            f"batch_size of at most {room // each:,}"
        )
