"""5,000 random requests to a server, some wrong, some read slowly or not at all.

Seeded; see tests/helpers/served_soak.py for the laws. Ends with a line of JSON; a law that does not
hold ends it with a traceback.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from served_soak import soak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--health", type=float, default=0.1, help="seconds /health may take")
    parser.add_argument("--examples", type=int, default=50, help="of schemathesis, by endpoint")
    wanted = parser.parse_args()

    def tell(done: int) -> None:
        print(f"\r{done} requests", end="", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        figures = soak(
            Path(folder), wanted.count, wanted.seed, wanted.health, wanted.examples, tell
        )
    print(f"\r{figures.to_json()}")


if __name__ == "__main__":
    main()
