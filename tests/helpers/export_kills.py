"""Exports killed at random moments. One process with TensorFlow imported forks a child for each.

After every kill the destination holds nothing, or a whole bundle (never nothing, where there was an
earlier one); then an export succeeds and clears what the killed ones left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from checkpoints import huggingface_tensors, save_huggingface, values_of
from gpt2rt import HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt_export.recipe import Recipe
from models import LargerWeights

SHAPE = HParams(n_vocab=280, n_ctx=6, n_embd=16, n_head=2, n_layer=1)
MOST_KILLS = 4  # in a row


class Exporter:
    """Runs exports of one small checkpoint, to their end or to a kill."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seconds = 0.0  # that the last whole export took

    def run(self, place: Path, precision: str, kill_after: float | None = None) -> bool:
        """Export to `place`; returns whether it came to its end, False where it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = time.monotonic()
        print(json.dumps([str(place), precision, kill_after]), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        if kill_after is None:
            self.seconds = time.monotonic() - began
        assert status in (0, -signal.SIGKILL), f"the export ended with {status}"
        return status == 0


@contextmanager
def exporter(home: Path) -> Iterator[Exporter]:
    """The process that forks, for as long as this lasts."""
    tensors = huggingface_tensors(values_of(LargerWeights(SHAPE, seed=1)))
    checkpoint = save_huggingface(home / "checkpoint", SHAPE, tensors)
    command = [sys.executable, __file__, str(checkpoint)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **streams) as process:  # type: ignore[call-overload]
        one = Exporter(process)
        one.run(home / "first", "fp32")
        yield one


def trial(exports: Exporter, home: Path, random: Random) -> int:
    """Kill some exports in a row, each at a random moment, and let one come to its end; returns how
    many kills came before the end of theirs."""
    place, killed = home / "bundle", 0
    for _ in range(random.randint(1, MOST_KILLS)):
        precision = random.choice(["fp32", "int8"])
        earlier = whole(place)
        ended = exports.run(place, precision, random.uniform(0, exports.seconds))
        killed += not ended
        assert earlier is None or whole(place), "an earlier bundle is kept"
        if ended:
            assert Bundle.open(place).manifest.precision == precision
    assert exports.run(place, precision), "the next export succeeds"
    found = Bundle.open(place)
    found.check()
    assert found.manifest.precision == precision
    left = {path.name for path in home.iterdir()} - {"checkpoint", "first", "bundle"}
    left -= {".first.lock", ".bundle.lock"}
    assert not left, f"{left} left behind"
    if random.random() < 0.5:
        for path in (*place.iterdir(), place):
            path.rmdir() if path.is_dir() else path.unlink()
    return killed


def whole(place: Path) -> Bundle | None:
    """The bundle in its place or, between the two renames of a replacement, beside it: checked."""
    old = place.with_name(f".{place.name}.old")
    if not place.exists() and not old.exists():
        return None
    found = Bundle.open(place if place.exists() else old)
    found.check()
    return found


def serve(checkpoint: Path) -> None:
    """Fork an export for each line of standard input; answer with how it ended."""
    from gpt2rt_export import pipeline

    for line in sys.stdin:
        place, precision, kill_after = json.loads(line)
        child = os.fork()
        if child == 0:
            recipe = Recipe("own", precision, checkpoint=checkpoint, output=Path(place), force=True)
            pipeline.export(recipe)
            os._exit(0)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)  # of a child that has ended already: nothing
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
