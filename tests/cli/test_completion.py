"""Shell completion: what bash, zsh and fish are told, and by the real shells where they are."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Ended, run_process
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.cli import completion

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def models(exported: Callable[[str], Bundle], home: Path) -> Path:
    exported("117M")
    exported("345M")
    return home


def complete(shell: str, line: str) -> Ended:
    """What the command answers when `shell` asks how `line` may go on."""
    environment = {
        **os.environ,
        "_GPT2RT_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    return run_process(env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("gpt2rt gen", "generate", "export"),
        ("gpt2rt generate --top", "--top-k", "--seed"),
        ("gpt2rt bench 117", "117M-int8", "345M-int8"),
    ],
)
def test_a_shell_is_told_how_a_line_goes_on(
    models: Path, shell: str, line: str, wanted: str, unwanted: str
) -> None:
    ended = complete(shell, line)
    assert (ended.code, ended.err) == (0, "")
    assert wanted in ended.out
    assert unwanted not in ended.out


def test_names_of_models_are_those_that_are_there(models: Path) -> None:
    assert completion.model_names("117m") == ["117M-int8"]
    assert {"117M-int8", "345M-int8"} <= set(completion.model_names())
    assert completion.model_names("nosuch") == []


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_installs_it(shell: str, tmp_path: Path) -> None:
    """And the script that it will read is one that it can read."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not there")
    command = shlex.join([sys.executable, "-m", "gpt2rt", "--install-completion"])
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"),
    }
    # The second command keeps the shell from making way for the first.
    installed = subprocess.run(
        [program, "-c", f"{command}; true"], env=environment, capture_output=True, timeout=300
    )
    assert f"{shell} completion installed" in installed.stdout.decode()
    (script,) = [path for path in tmp_path.rglob("*gpt2rt*") if path.is_file()]
    subprocess.run([program, "-n", str(script)], env=environment, check=True, timeout=300)
