"""Tests whether ONNX Runtime can open a provider.

Run as `python -m gpt2rt_bench.micro.opening PROVIDER LIBRARY...`.

It runs in a process of its own, since a library that does not load may end the process, and since
ONNX Runtime gives the reason only on standard error. Prints a line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt2rt.bundles.catalog import demo_bundle
from gpt2rt.bundles.manifest import GRAPH

PATIENCE = 120.0  # seconds; a GPU's first start compiles


@dataclass(frozen=True, slots=True)
class Opening:
    """The result: the reason where it failed, and the shared libraries that were not found.

    `missing` None: not known, since the process ended early.
    """

    opened: bool
    reason: str | None
    missing: tuple[str, ...] | None = None


def opening(provider: str, libraries: Sequence[str] = ()) -> Opening:
    """Try to open a provider in a new process, and look for shared libraries as it does."""
    command = [sys.executable, "-m", "gpt2rt_bench.micro.opening", provider, *libraries]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        result: dict[str, Any] = json.loads(ended.stdout)
    except subprocess.TimeoutExpired:
        return Opening(False, f"nothing happened for {PATIENCE:.0f} seconds")
    except ValueError:
        return Opening(False, f"the process ended with exit code {ended.returncode}")
    reason = None if result["opened"] else result["reason"] or reason_in(ended.stderr)
    return Opening(result["opened"], reason, tuple(result["missing"]))


def reason_in(errors: str) -> str:
    """The reason in ONNX Runtime's output: the library that did not load, else its first line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    for line in lines:
        if "with error: " in line:
            return line.partition("with error: ")[2]
    return lines[0] if lines else "no reason was given"


def main(provider: str, *libraries: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ONNX Runtime prints to both
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls") and libraries:
        ort.preload_dlls(directory="")  # of the packages that pip installed
    missing = [name for name in libraries if not _loads(name)]
    reason, opened = None, False
    try:
        session = ort.InferenceSession(str(demo_bundle() / GRAPH), providers=[provider])
        opened = provider in session.get_providers()
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
    print(
        json.dumps({"opened": opened, "reason": reason, "missing": missing}), file=out, flush=True
    )


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
