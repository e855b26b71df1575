"""Whatever is killed while a corpus is worked on by a cluster, it ends with the same bytes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

pytest.importorskip("ray")

from corpus_kills import KINDS, KilledJob, two_nodes


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_no_row_is_lost_and_none_comes_twice(tmp_path: Path) -> None:
    with two_nodes() as cluster:
        job = KilledJob(cluster, tmp_path, rows=2000)
        try:
            job.survive(KINDS, Random(1))
            job.end()
        finally:
            job.close()
    assert set(job.kills) == set(KINDS)
