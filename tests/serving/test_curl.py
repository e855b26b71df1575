"""curl, as in the README."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from gpt2rt import GPT2, SamplingParams, Stopping
from serving import RunningServer

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


def curl(server: RunningServer, path: str, *options: str, **body: Any) -> str:
    command = [str(CURL), "--silent", "--show-error", "--max-time", "20", *options]
    if body:
        command += ["--json", json.dumps(body)]
    return subprocess.run(
        [*command, f"{server.url}{path}"], check=True, capture_output=True, text=True
    ).stdout


def test_a_text(server: RunningServer, gpt2: GPT2) -> None:
    found = json.loads(curl(server, "/v1/completions", prompt="ab", seed=3, max_tokens=9))
    wanted = gpt2.generate("ab", SamplingParams(seed=3), Stopping(9))
    assert found["choices"][0]["text"] == wanted.text


def test_a_stream(server: RunningServer, gpt2: GPT2) -> None:
    body = {"prompt": "ab", "seed": 3, "max_tokens": 9, "stream": True}
    lines = curl(server, "/v1/completions", "--no-buffer", **body).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    wanted = gpt2.generate("ab", SamplingParams(seed=3), Stopping(9))
    assert "".join(part["choices"][0]["text"] for part in parts) == wanted.text


def test_an_error(server: RunningServer) -> None:
    found = json.loads(curl(server, "/v1/completions", prompt=5))
    assert found["error"]["param"] == "prompt"


def test_a_form_is_no_json(server: RunningServer) -> None:
    status = curl(server, "/v1/completions", "-d", "prompt=a", "-w", "\n%{http_code}")
    assert status.splitlines()[-1] == "415"
