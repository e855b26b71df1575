"""Downloads under kills and faults, in full numbers: `make soak`.

Seeded, and resumable: the figures so far are kept in a file, and a run that was stopped goes on
behind its last trial. Ends with a line of JSON; a law that does not hold ends it with a traceback.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from faulty import fault_sequence
from file_server import FileServer, serving
from gpt2rt.bundles.catalog import Release
from killable import killer, trial
from openai_files import write_release


@dataclass
class Figures:
    """What was done so far. `seconds` are those of all runs together."""

    seed: int
    kill_trials: int = 0
    kills: int = 0
    fault_sequences: int = 0
    faults: int = 0
    refused: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".new")
        written.write_text(json.dumps(asdict(self)))
        written.replace(path)


@contextmanager
def _shelf() -> Iterator[tuple[Path, FileServer, Release]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        release = write_release(place / "published")
        server = FileServer(place / "published")
        with serving(server):
            yield place, server, release


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=Path, default=Path(".soak/downloads.json"))
    wanted = parser.parse_args()
    figures = Figures(wanted.seed)
    if wanted.state.is_file():
        earlier = Figures(**json.loads(wanted.state.read_text()))
        figures = earlier if earlier.seed == wanted.seed else figures
    begun, before = time.monotonic(), figures.seconds

    def done() -> None:
        figures.seconds = round(before + time.monotonic() - begun, 1)
        figures.save(wanted.state)
        print(f"\r{figures.kills} kills, {figures.fault_sequences} sequences", end="", flush=True)

    with _shelf() as (place, server, release), killer(release, place) as kills:
        while figures.kills < wanted.kills:
            random = Random(f"kill {figures.seed} {figures.kill_trials}")
            target = place / f"killed-{figures.kill_trials}"
            figures.kills += trial(kills, server, release, target, random)
            figures.kill_trials += 1
            done()
        while figures.fault_sequences < wanted.sequences:
            random = Random(f"fault {figures.seed} {figures.fault_sequences}")
            target = place / f"faulty-{figures.fault_sequences}"
            faults, refused = fault_sequence(server, release, target, random)
            figures.faults += faults
            figures.refused += refused
            figures.fault_sequences += 1
            done()
    print("\r", end="")
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()
