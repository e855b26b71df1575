"""A checkpoint of any size that takes no space: a hole of zeros, with their true checksums.

As a program, `python hollow.py DIRECTORY [NAME...]` reads one and says what memory that took.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path

import google_crc32c

from gpt2rt.bundles.catalog import DATA, HPARAMS, INDEX, Release
from openai_files import write_index

ZEROS = bytes(1 << 22)


def write_hollow(directory: Path, release: Release) -> None:
    """The files that hold the weights of a release, and its shape."""
    directory.mkdir(parents=True)
    (directory / HPARAMS).write_text(json.dumps(release.hparams.as_dict()))
    (directory / DATA).touch()
    os.truncate(directory / DATA, release.data_bytes)
    shapes = release.hparams.variables()
    checksums = {name: _of_zeros(4 * _product(shape)) for name, shape in shapes.items()}
    write_index(directory / INDEX, shapes, checksums)


def _product(shape: tuple[int, ...]) -> int:
    return shape[0] * _product(shape[1:]) if shape else 1


@cache
def _of_zeros(count: int) -> int:
    crc = 0
    for start in range(0, count, len(ZEROS)):
        crc = google_crc32c.extend(crc, ZEROS[: count - start])
    return crc


def _peak() -> int:
    """Bytes of memory at most so far."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def main(directory: Path, *names: str) -> None:
    """Read the variables named, or all; print what the reading took beyond the empty program."""
    import tensorflow  # noqa: F401

    from gpt2rt_export.sources import OpenAICheckpoint

    before = _peak()
    checkpoint = OpenAICheckpoint(directory, with_tokenizer=False)
    read = 0
    for name in names or checkpoint.hparams.variables():
        values = checkpoint.read(name)
        assert values.shape == checkpoint.hparams.variables()[name]
        assert not values.any()
        read += values.nbytes
    print(json.dumps({"read": read, "memory": _peak() - before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
