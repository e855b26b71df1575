"""ONNX Runtime reports nothing to its makers, and leaves nothing in the user's home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each silences ONNX Runtime by itself.
SILENCING = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI")
CODE = "import gpt2rt; gpt2rt.GPT2.load('demo').generate('Once', stopping=gpt2rt.Stopping(1))"


@pytest.mark.slow
def test_a_model_leaves_no_trace_in_the_home(tmp_path: Path) -> None:
    """Where it reports, it keeps a number of the machine and a queue of reports there."""
    environment = {name: value for name, value in os.environ.items() if name not in SILENCING}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CODE], env=environment, check=True, timeout=300)
    assert list(tmp_path.iterdir()) == []
