"""Every variable of all four sizes read from checkpoints of zeros: time and memory. `make soak`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import hollow
from gpt2rt.bundles import catalog
from gpt2rt.bundles.catalog import DATA
from gpt2rt_export.fetch.integrity import fault

SLACK = 64e6  # bytes beyond the largest variable


def main() -> None:
    for published in catalog.RELEASES:
        release = replace(published, known={})  # zeros are not the published bytes
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / release.name
            hollow.write_hollow(directory, release)
            begun = time.monotonic()
            assert fault(DATA, directory / DATA, release, directory) is None
            checked = time.monotonic()
            command = [sys.executable, hollow.__file__, str(directory)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            told = json.loads(done.stdout)
        assert told["read"] == release.data_bytes
        largest = 4 * release.hparams.n_vocab * release.hparams.n_embd
        assert told["memory"] < largest + SLACK
        figures = {
            "model": release.name,
            "bytes": told["read"],
            "largest_variable": largest,
            "memory": told["memory"],
            "check_seconds": round(checked - begun, 1),
            "read_seconds": round(time.monotonic() - checked, 1),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
