"""The weights that kernels read stay in the mapped file: a process has no copy of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt2rt import HParams
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.kernels.library import kernels
from models import LargerWeights, make_bundle

SHAPE = HParams(n_vocab=280, n_ctx=32, n_embd=512, n_head=8, n_layer=4)
CODE = """
import sys
from pathlib import Path
import onnxruntime
from gpt2rt import GPT2, SamplingParams, Stopping
def private():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
SamplingParams(seed=1).seeded(), Stopping()
before = private()
model = GPT2.load(sys.argv[1], threads=1)
model.generate("a b", SamplingParams(seed=1), Stopping(length=4))
if sys.argv[2:]:
    model.embed("a b")
print(private() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read in /proc")
@pytest.mark.skipif(kernels().path is None, reason="without kernels ONNX Runtime copies weights")
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_generating_and_embedding_copy_no_weights(precision: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", LargerWeights(SHAPE, seed=1), precision)
    weights = bundle.manifest.files[WEIGHTS].bytes
    for also in ([], ["embed"]):
        command = [sys.executable, "-c", CODE, str(bundle.directory), *also]
        private = int(subprocess.run(command, check=True, capture_output=True).stdout)
        assert private < 0.5 * weights
