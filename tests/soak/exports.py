"""Hundreds of exports killed at random moments; see tests/helpers/export_kills.py for the law.

Seeded; what was done is kept in .soak/exports.json, and the next run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from random import Random

from export_kills import exporter, trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--state", type=Path, default=Path(".soak/exports.json"))
    wanted = parser.parse_args()
    done = {"trials": 0, "kills": 0, "seconds": 0.0}
    if wanted.state.is_file():
        done = json.loads(wanted.state.read_text())
    with tempfile.TemporaryDirectory() as folder, exporter(Path(folder)) as exports:
        while done["kills"] < wanted.kills:
            began = time.monotonic()
            done["kills"] += trial(exports, Path(folder), Random(f"export {done['trials']}"))
            done["trials"] += 1
            done["seconds"] = round(done["seconds"] + time.monotonic() - began, 1)
            wanted.state.parent.mkdir(parents=True, exist_ok=True)
            wanted.state.write_text(json.dumps(done))
            print(f"\r{done['kills']} exports killed", end="", flush=True)
    print(f"\r{done['kills']} exports killed in {done['trials']} trials; {done['seconds']:.0f} s")


if __name__ == "__main__":
    main()
