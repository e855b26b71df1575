"""What the keys and values of sequences cost in memory, and what this process may still take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from gpt2rt.bundles.hparams import HParams
from gpt2rt.errors import InvalidSetting

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def slot_bytes(hparams: HParams) -> int:
    """Bytes of float32 keys and values of one sequence at full length: 75 MB for 117M."""
    return 2 * 4 * hparams.n_layer * hparams.n_head * hparams.n_ctx * hparams.kv_width


def available() -> int | None:
    """Bytes that this process may still take (Linux, within its cgroup); None where not known."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = MEMINFO.read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) << 10)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit = int((CGROUP / "memory.max").read_text())
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = int((CGROUP / "memory.current").read_text()) - int(counts.get("inactive_file", 0))
        found.append(max(0, limit - used))
    return min(found, default=None)


def check(hparams: HParams, slots: int) -> None:
    """Raises `InvalidSetting` where so many sequences, at full length, exceed the memory."""
    room, each = available(), slot_bytes(hparams)
    if room is not None and slots * each > room:
        raise InvalidSetting(
            f"{slots:,} sequences side by side take up to {slots * each / 1e6:,.0f} MB of keys and "
            f"values ({each / 1e6:,.1f} MB each), {room / 1e6:,.0f} MB are free; choose a "
            f"batch_size of at most {room // each:,}"
        )
