"""Thousands of random corruptions of checkpoints and bundles.

See tests/helpers/corruption.py for the law. Seeded; what was done is kept in
.soak/corruption.json, and the next run goes on from there.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from corruption import SUBJECTS, DamagedSubject

LONGEST = 120  # seconds that one may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="corruptions of each subject")
    parser.add_argument("--state", type=Path, default=Path(".soak/corruption.json"))
    parser.add_argument("subjects", nargs="*", default=SUBJECTS)
    wanted = parser.parse_args()
    state: dict[str, dict[str, Any]] = {}
    if wanted.state.is_file():
        state = json.loads(wanted.state.read_text())
    for name in wanted.subjects:
        figures = state.setdefault(name, {"next": 0, "outcomes": {}, "failed": {}, "seconds": 0.0})
        with tempfile.TemporaryDirectory() as home:
            subject = DamagedSubject(name, Path(home))
            run(subject, figures, wanted.count, lambda: save(state, wanted.state))
        told = ", ".join(f"{count} {what}" for what, count in figures["outcomes"].items())
        failures = len(figures["failed"])
        print(f"{name}: {told}, {failures} failures; {figures['seconds']:.0f} s", flush=True)
    failed = {name: figures["failed"] for name, figures in state.items() if figures["failed"]}
    if failed:
        sys.exit(json.dumps(failed, indent=1))


def run(subject: DamagedSubject, figures: dict[str, Any], count: int, keep: Any) -> None:
    """Go on to `count`. A seed is noted before it is tried, so one that crashes is known."""
    outcomes = Counter(figures["outcomes"])
    if figures.get("trying") is not None:
        figures["failed"][figures["trying"]] = "the process ended"
    begun, before = time.monotonic(), figures["seconds"]
    while figures["next"] < count:
        seed = figures["next"]
        figures |= {"trying": seed, "next": seed + 1}
        keep()
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            _, outcome = subject.trial(seed)
            outcomes[outcome] += 1
        except Exception as error:
            figures["failed"][seed] = f"{type(error).__name__}: {error}"[:300]
        faulthandler.cancel_dump_traceback_later()
        figures["outcomes"] = dict(outcomes)
        figures["seconds"] = round(before + time.monotonic() - begun, 1)
    figures["trying"] = None
    keep()


def save(state: dict[str, dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(json.dumps(state, indent=1))
    written.replace(path)


if __name__ == "__main__":
    main()
