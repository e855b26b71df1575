"""The Dockerfile, the systemd unit and the page about them fit the server, and each other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gpt2rt.cli.app import app
from gpt2rt.cli.commands.serve import KEY, NEEDED
from gpt2rt.serving.guard import GRACE, OPEN
from gpt2rt.serving.server import LAST
from gpt2rt.serving.settings import ServeSettings
from serving import running

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
STEPS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and line[0] != "#"]
LAST_STAGE = STEPS[max(i for i, step in enumerate(STEPS) if step[0] == "FROM") :]
DRAIN = ServeSettings().drain + LAST


def step(name: str) -> str:
    """What follows the only instruction `name` of the last stage."""
    (found,) = (rest for instruction, rest in LAST_STAGE if instruction == name)
    return found


def served(arguments: list[str]) -> dict[str, Any]:
    """What `gpt2rt serve` takes `arguments` for, which have to be right."""
    commands: Any = get_command(app(["serve"]))
    params: dict[str, Any] = commands.commands["serve"].make_context("serve", arguments).params
    return params


def unit() -> ConfigParser:
    (text,) = re.findall(r"^```ini\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    found = ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(text)
    return found


def docker_runs() -> list[tuple[list[str], list[str]]]:
    """The words of each `docker run` of the page, before and after the image's name."""
    lines = PAGE.replace("\\\n", " ").splitlines()
    runs = [shlex.split(line[2:]) for line in lines if line.startswith("$ docker run")]
    images = [len(words) - words[::-1].index("gpt2rt") for words in runs]
    return [(words[: at - 1], words[at:]) for words, at in zip(runs, images, strict=True)]


# ---- the image


def test_the_image_serves_on_the_port_that_is_exposed_and_asked() -> None:
    program, command, *arguments = json.loads(step("ENTRYPOINT"))
    settings = served(arguments)
    assert (program, command, settings["host"]) == ("gpt2rt", "serve", "0.0.0.0")
    port, path = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", step("HEALTHCHECK"))[0]
    assert int(port) == settings["port"] == int(step("EXPOSE"))
    assert path in OPEN  # without a key


def test_the_health_check_passes_while_the_server_is_ready(serve_settings: ServeSettings) -> None:
    """As it stands, but for the port."""
    (command,) = re.findall(r"CMD\s+(\[.*\])$", step("HEALTHCHECK"))

    def check(port: int) -> int:
        words = [word.replace(":8000", f":{port}") for word in json.loads(command)]
        return subprocess.run([sys.executable, *words[1:]], capture_output=True).returncode

    with running(serve_settings) as server:  # of its own, as it ends here
        assert check(server.port) == 0
        server.server.drain()
        assert check(server.port) == 1


def test_the_image_is_small_and_without_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", step("USER"))
    assert f"User {step('USER').split(':')[0]} " in PAGE
    assert "RUN" not in dict(LAST_STAGE)  # only what the first stage made
    (base,) = re.findall(r"^ARG BASE=python:(\d+\.\d+)\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    versions = [int(number) for number in base.split(".")]
    assert [3, 11] <= versions <= [3, 13]
    assert {rest.split()[0] for name, rest in STEPS if name == "FROM"} == {"${BASE}"}


def test_the_context_is_what_a_wheel_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    project = PROJECT["project"]
    metadata = ["pyproject.toml", "hatch_build.py", project["readme"], *project["license-files"]]
    assert {line[1:] for line in lines if line.startswith("!")} == {*metadata, *wheel}
    assert lines[1] == "*"


def test_the_extras_exist() -> None:
    chosen = re.findall(r"EXTRAS=([\w,-]+)", DOCKERFILE + PAGE)
    chosen += re.findall(r"gpt2rt\[([\w,-]+)\]", PAGE)
    extras = PROJECT["project"]["optional-dependencies"]
    assert {name for names in chosen for name in names.split(",")} <= set(extras)
    assert all("serve" in names.split(",") for names in chosen)
    needed = " ".join(extras["serve"]).replace("-", "_")
    assert all(module in needed for module in NEEDED)


# ---- the page


def test_what_follows_the_name_of_the_image_is_for_gpt2rt_serve() -> None:
    models = [served(arguments)["models"] for _, arguments in docker_runs()]
    assert [list(named or ()) for named in models] == [[], ["117M-int8"]]


def test_a_container_has_models_a_key_and_time_to_end() -> None:
    options, _ = docker_runs()[1]
    (volume,) = (word for word in options if word.endswith(":ro"))
    assert f"GPT2RT_HOME={volume.split(':')[1]}" in step("ENV")
    assert options[options.index("--env") + 1] == KEY
    assert float(options[options.index("--stop-timeout") + 1]) > DRAIN


def test_the_unit_starts_a_server_and_lets_it_end() -> None:
    service = unit()["Service"]
    program, command, *arguments = shlex.split(service["ExecStart"])
    settings = served([word.replace("%d", "/run") for word in arguments])
    assert (Path(program).name, command) == ("gpt2rt", "serve")
    name = service["LoadCredential"].split(":")[0]
    assert settings["api_key_file"] == Path("/run", name)
    assert float(service["TimeoutStopSec"]) > settings["drain"] + LAST
    assert service["Environment"].split("=")[0] == "GPT2RT_HOME"
    assert f"{Path(program).parent}/pip install" in PAGE


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    found = unit()
    _, *arguments = found["Service"]["ExecStart"].split()
    found["Service"]["ExecStart"] = " ".join([sys.executable, *arguments])
    with open(tmp_path / "gpt2rt.service", "w", encoding="utf-8") as file:
        found.write(file, space_around_delimiters=False)
    command = ["systemd-analyze", "verify", "--man=no", file.name]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_proxy_waits_longer_than_a_request_may_take() -> None:
    (url, seconds) = re.findall(
        r"proxy_pass http://127.0.0.1:(\d+);|proxy_read_timeout (\d+)s", PAGE
    )
    assert int(url[0]) == ServeSettings().port
    assert float(seconds[1]) > ServeSettings().timeout + GRACE
