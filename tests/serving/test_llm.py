"""Simon Willison's `llm`, told of the server by its own file of OpenAI-compatible models."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpt2rt import GPT2, SamplingParams, Stopping
from serving import RunningServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm") is None, reason="llm is not installed"),
]

MODELS = """\
- model_id: gpt2
  model_name: tiny-int8
  api_base: "{url}/v1"
  completion: true
"""


@pytest.mark.parametrize("options", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_llm_prints_the_librarys_text(
    server: RunningServer, gpt2: GPT2, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=server.url))
    settings = ["-o", "max_tokens", "9", "-o", "seed", "3", *options]
    ended = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "gpt2", *settings, "ab"],
        env={**os.environ, "LLM_USER_PATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    wanted = gpt2.generate("ab", SamplingParams(seed=3), Stopping(9)).text
    assert ended.stdout.decode() == wanted + "\n"
