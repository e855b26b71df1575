"""The memory of a batch's keys and values, and the error if it exceeds what is available."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2rt import GPT2, HParams, SamplingParams, Stopping
from gpt2rt.engine import memory
from gpt2rt.errors import InvalidSetting

GREEDY, SHORT = SamplingParams(temperature=0), Stopping(3)


@pytest.mark.parametrize(("kv", "size"), [("float16", 37_748_736), ("float32", 75_497_472)])
def test_the_memory_of_a_sequence_of_117m(kv: str, size: int) -> None:
    assert memory.slot_bytes(HParams(50257, 1024, 768, 12, 12), kv) == size


def test_more_sequences_than_memory_holds_are_refused_before_any_work(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt2 = GPT2.load(model, threads=1)
    each = memory.slot_bytes(gpt2.hparams, gpt2.bundle.manifest.kv)
    monkeypatch.setattr(memory, "available", lambda: 3 * each)
    assert len(gpt2.generate_batch(["a"] * 9, GREEDY, SHORT, batch_size=3)) == 9
    with pytest.raises(InvalidSetting, match="at most 3"):
        gpt2.stream_batch(["a"] * 9, GREEDY, SHORT, batch_size=4)
    monkeypatch.setattr(memory, "available", lambda: None)
    assert gpt2.generate_batch(["a"] * 4, GREEDY, SHORT, batch_size=4)


def test_what_is_free_is_the_least_that_machine_and_cgroup_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.available() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert memory.available() == 5 << 10
    for name, text in {"max": "4000", "current": "3000", "stat": "inactive_file 500\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.available() == 1500
    (tmp_path / "memory.max").write_text("max")
    assert memory.available() == 5 << 10
