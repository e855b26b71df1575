"""A hundred kills, of actors, workers, nodes and drivers, while corpora are scored on a cluster.

See tests/helpers/corpus_kills.py for the law. Seeded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from corpus_kills import KINDS, KilledJob
from ray_clusters import two_nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=10_000, help="of each corpus")
    wanted = parser.parse_args()
    random, began = Random(wanted.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, two_nodes() as cluster:
        job = KilledJob(cluster, Path(folder), wanted.rows)
        try:
            while sum(job.kills.values()) < wanted.count:
                job.survive([random.choice(KINDS)], random)
                print(job.figures, file=sys.stderr, flush=True)
            job.end()
        except AssertionError:
            sys.exit(f"{job.figures}\n{job.told()}")
        finally:
            job.close()
        print(f"{job.figures}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
