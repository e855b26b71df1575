"""A small, seeded sample of the random damage in tests/soak/corruptions.py."""

from __future__ import annotations

import faulthandler
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from corruption import SUBJECTS, DamagedSubject

COUNT = 100
LONGEST = 60  # seconds


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_damage_is_detected_or_harmless(name: str, tmp_path: Path) -> None:
    subject = DamagedSubject(name, tmp_path)
    outcomes: Counter[str] = Counter()
    for seed in range(COUNT):
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            _, outcome = subject.trial(seed)
        finally:
            faulthandler.cancel_dump_traceback_later()
        outcomes[outcome] += 1
    assert outcomes["detected"] > COUNT // 2
    assert outcomes.total() == COUNT
