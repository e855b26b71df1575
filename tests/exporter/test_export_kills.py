"""A seeded sample of the kills that tests/soak/exports.py does hundreds of times."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("tensorflow")

from export_kills import exporter, trial

TRIALS = 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_killed_export_is_never_half_a_bundle(tmp_path: Path) -> None:
    killed = 0
    with exporter(tmp_path) as exports:
        for seed in range(TRIALS):
            killed += trial(exports, tmp_path, Random(seed))
    assert killed > TRIALS // 3
