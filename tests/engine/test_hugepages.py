"""Huge pages: which memory moves, and that its contents stay the same."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from threading import Thread
from threading import enumerate as threads

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt.engine import hugepages
from gpt2rt.engine.hugepages import (
    HUGE,
    LEAST,
    Region,
    aligned,
    anonymous_regions,
    new_regions,
    on_huge_pages,
)

borders = st.lists(st.integers(0, 60), unique=True, max_size=12).map(sorted)


def regions(ends: list[int]) -> list[Region]:
    return list(zip(ends[::2], ends[1::2], strict=False))


def covered(found: list[Region]) -> set[int]:
    return {place for start, end in found for place in range(start, end)}


@given(borders, borders)
def test_what_is_new_is_what_was_not_there(now: list[int], before: list[int]) -> None:
    found = new_regions(regions(now), regions(before))
    assert covered(found) == covered(regions(now)) - covered(regions(before))
    assert all(start < end for start, end in found)
    assert all(one[1] <= two[0] for one, two in pairwise(found))


@given(st.integers(0, 9 * HUGE), st.integers(1, 5 * HUGE))
def test_only_whole_pages_are_taken(start: int, size: int) -> None:
    whole = [
        page for page in range(16) if start <= page * HUGE and (page + 1) * HUGE <= start + size
    ]
    expected = (whole[0] * HUGE, (whole[-1] + 1) * HUGE) if whole else None
    assert aligned((start, start + size)) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them by this way")
def test_contents_stay_while_memory_moves() -> None:
    with on_huge_pages():
        block = np.arange(2 * LEAST // 8)
    place = int(block.ctypes.data)
    assert any(start <= place < end for start, end in anonymous_regions())
    for _ in range(20):
        np.testing.assert_array_equal(block[:: 4096 // 8], np.arange(0, len(block), 4096 // 8))
    for thread in threads():
        if thread.daemon and isinstance(thread, Thread):
            thread.join(5)
    np.testing.assert_array_equal(block, np.arange(len(block)))


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [("always [madvise] never", True), ("always madvise [never]", False), (None, False)],
)
def test_the_system_has_the_last_word(
    setting: str | None, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "enabled"
    if setting is not None:
        path.write_text(setting)
    monkeypatch.setattr(hugepages, "SETTING", path)
    assert hugepages.enabled() == wanted


def test_a_user_may_turn_them_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never")
    monkeypatch.setattr(hugepages, "SETTING", setting)
    assert hugepages.enabled()
    monkeypatch.setenv("GPT2RT_HUGE_PAGES", "0")
    assert not hugepages.enabled()
