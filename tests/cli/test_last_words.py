"""A process that a library ends has a last word, and no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

CODE = """
import os, sys
from gpt2rt.cli.output.last_words import last_words
from gpt2rt.cli.output.terminal import undisturbed
with last_words("lost"), undisturbed():
    print("dropped")
    os.write(2, b"dropped")
    print("told", file=sys.stderr)
    {end}
print("after")
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("end", "out", "err"),
    [
        ("pass", b"after\n", [b"told", b"after"]),
        ("os._exit(3)", b"", [b"told", b"lost"]),
        ("os.abort()", b"", [b"told", b"lost"]),
        ("sys.exit(4)", b"", [b"told"]),
    ],
)
def test_the_last_word(end: str, out: bytes, err: list[bytes]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(end=end)], capture_output=True, check=False
    )
    assert done.stdout == out
    assert done.stderr.splitlines() == err
