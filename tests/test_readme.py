"""Every command and every Python example of the README does what it says."""

from __future__ import annotations

import os
import pickle
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from checkpoints import huggingface_tensors, save_huggingface, values_of
from file_server import FileServer, serving
from gpt2rt import HParams
from models import LargerWeights
from openai_files import write_release

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


LINES = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES]


def test_the_readme_opens_with_two_commands() -> None:
    assert COMMANDS[:2] == [["make", "demo"], ["make", "test"]]
    targets = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", targets, re.MULTILINE) for target in ("demo", "test"))


def test_the_extras_of_the_readme_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r'pip install "\.\[(\w+)\]"', README) + re.findall(
        r"extras? `(\w+)`", README
    )
    assert set(named) <= set(project["optional-dependencies"])
    assert "export" in named


# Where a command would download GPT-2 117M, a small model on this machine takes its name.
SMALL = """
import pickle, sys
import gpt2rt.bundles.catalog as catalog
from gpt2rt.cli import main
catalog.RELEASES = (pickle.loads(open(sys.argv.pop(1), "rb").read()),)
main()
"""
SHAPE = HParams(n_vocab=1000, n_ctx=128, n_embd=64, n_head=4, n_layer=2)


def run(place: Path, line: str, mirror: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which `gpt2rt` is the real command, or the one with the small 117M."""
    command = [sys.executable, "-m", "gpt2rt"]
    if "babble" not in line:
        command = [sys.executable, "-c", SMALL, str(place / "release.pickle")]
    (place / "bin").mkdir(exist_ok=True)
    script = place / "bin" / "gpt2rt"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o755)
    environment = {**os.environ, "GPT2RT_HOME": str(place / "home"), "GPT2RT_MIRRORS": mirror}
    environment["PATH"] = os.pathsep.join([str(place / "bin"), environment["PATH"]])
    environment.pop("GPT2RT_MODEL", None)
    return subprocess.run(
        ["sh", "-c", line], cwd=place, env=environment, capture_output=True, text=True, input=""
    )


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Where the small 117M is to be had."""
    release = write_release(tmp_path / "published", SHAPE, factor=1.0)
    (tmp_path / "release.pickle").write_bytes(pickle.dumps(release))
    server = FileServer(tmp_path / "published")
    with serving(server):
        yield server.root


def test_the_commands_of_the_readme(tmp_path: Path, mirror: str) -> None:
    """In order, since later ones use what earlier ones make; one export is 117M at full size."""
    # `bench` compares what the exports of the section after it make, too.
    lines = sorted((line for line in LINES if "gpt2rt" in line), key=lambda line: "bench" in line)
    assert len(lines) > 12
    # The fine-tune that the README speaks of.
    weights = LargerWeights(HParams(300, 64, 32, 4, 2), seed=1)
    tensors = huggingface_tensors(values_of(weights))
    save_huggingface(tmp_path / "my-fine-tune", weights.hparams, tensors)
    for line in lines:
        done = run(tmp_path, line, mirror)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout, line  # of random weights the text may end at once: an empty line
        assert "Traceback" not in done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < 2.5e9, "exporting 117M takes less than 2.5 GB of memory"


def test_the_links_of_the_readme_lead_somewhere() -> None:
    places = re.findall(r"\]\(([^)#]+)\)", README)
    local = [place for place in places if "://" not in place]
    assert local
    assert all((ROOT / place).is_file() for place in local)
    assert "TODO" not in README
    assert "RESULTS_TABLE" not in README


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_the_readme(code: str, tmp_path: Path) -> None:
    environment = {**os.environ, "GPT2RT_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_makefile_installs_what_the_demo_needs() -> None:
    """`make -n` in a folder without .venv names every step, from the environment to the story."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    made = subprocess.run(["make", "-n", "-B", "demo"], cwd=ROOT, capture_output=True, text=True)
    steps = made.stdout
    assert made.returncode == 0
    order = [steps.index(step) for step in ("-m venv", "pip install", "export demo", "generate")]
    assert order == sorted(order)
