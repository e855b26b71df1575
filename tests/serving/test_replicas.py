"""How a server is spread over a cluster: what Serve is told, and the file for `serve deploy`."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from command_line import Command
from gpt2rt.errors import InvalidSetting
from gpt2rt.serving.metrics import Metrics
from gpt2rt.serving.replica_metrics import exposition
from gpt2rt.serving.replicas import BUILDER, Replicas, counts, fitted
from gpt2rt.serving.settings import ServeSettings

ROOT = Path(__file__).parents[2]
PLAIN = ServeSettings(("117M-int8",), threads=2)


@pytest.mark.parametrize(("text", "wanted"), [("1", (1, 1)), ("4", (4, 4)), ("1..4", (1, 4))])
def test_counts_of_replicas(text: str, wanted: tuple[int, int]) -> None:
    assert counts(text) == wanted
    assert Replicas(PLAIN, *wanted).count == text


@pytest.mark.parametrize("text", ["", "0", "4..1", "0..2", "1..", "..2", "-1", "a", "1...2", "²"])
def test_what_counts_no_replicas(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"LEAST\.\.MOST"):
        counts(text)


@pytest.mark.parametrize(
    "replicas",
    [
        Replicas(PLAIN),
        Replicas(PLAIN, 2, 5, 1, sessions=True, access_log=False, api_key_file="/keys"),
        Replicas(
            ServeSettings((), host="0.0.0.0", threads=1, slots=3, timeout=7.5, memory=1 << 30)
        ),
        Replicas(ServeSettings(("a", "b"), True, threads=3, metrics=False, log_prompts=True)),
    ],
)
def test_a_file_says_what_it_was_made_of(replicas: Replicas) -> None:
    config = replicas.config()
    (application,) = config["applications"]
    again = Replicas.of_arguments(application["args"])
    port = config["http_options"]["port"]
    assert replace(again, settings=replace(again.settings, port=port)) == replicas
    assert config["http_options"]["host"] == replicas.settings.host


def test_a_file_has_no_keys() -> None:
    with pytest.raises(InvalidSetting, match="--api-key-file"):
        Replicas(replace(PLAIN, keys=("secret",))).config()


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "117M"},
        {"port": 80},
        {"keys": ["k"]},
        {"models": "117M"},
        {"models": [1]},
        {"slots": 0},
        {"slots": "many"},
        {"threads": None},
        {"replicas": "0"},
        {"gpus": -1},
        {"gpus": "all"},
        {"sessions": "yes"},
        {"api_key_file": 1},
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting) as raised:
        Replicas.of_arguments(arguments)
    assert len(str(raised.value).splitlines()) == 1


def test_keys_are_read_where_the_replica_is(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\ntwo\n")
    found = Replicas(PLAIN, api_key_file=str(tmp_path / "keys"))
    assert found.opened().keys == ("one", "two")
    with pytest.raises(InvalidSetting, match="none"):
        Replicas(PLAIN, api_key_file=str(tmp_path / "none")).opened()


def test_a_replicas_own_queue_is_full_before_serves() -> None:
    """So that clients are told in the server's own words."""
    options = Replicas(replace(PLAIN, slots=4, queue=9)).options()
    assert options["max_ongoing_requests"] > 4 + 9


def test_replicas_grow_before_their_slots_are_full() -> None:
    scaling = Replicas(replace(PLAIN, slots=8), 1, 3).options()["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 3)
    assert 1 <= scaling["target_ongoing_requests"] < 8


@pytest.mark.parametrize(
    ("most", "cores", "threads"),
    [
        (1, (2, 2), 2),
        (2, (2, 2), 1),
        (4, (2, 2), 1),
        (1, (32, 8), 8),
        (4, (32, 8), 8),
        (8, (32, 8), 4),
    ],
)
def test_replicas_share_the_cores(most: int, cores: tuple[int, int], threads: int) -> None:
    settings, _ = fitted(replace(PLAIN, threads=None), most, cores, (0, 0))
    assert settings.threads == threads


def test_a_replica_with_more_threads_than_a_node_has_cores() -> None:
    with pytest.raises(InvalidSetting, match="the largest has 4"):
        fitted(replace(PLAIN, threads=8), 1, (16, 4), (0, 0))


@pytest.mark.parametrize(
    ("provider", "gpus", "each"),
    [("cpu", 4, 0), ("auto", 4, 1), ("auto", 3, 0), ("auto", 0, 0), ("cuda", 4, 1), ("cuda", 1, 1)],
)
def test_replicas_have_a_device_each_where_there_are_enough(
    provider: str, gpus: float, each: int
) -> None:
    assert fitted(replace(PLAIN, provider=provider), 4, (8, 8), (gpus, gpus))[1] == each


def test_no_device_for_cuda() -> None:
    with pytest.raises(InvalidSetting, match="no GPU"):
        fitted(replace(PLAIN, provider="cuda"), 1, (8, 8), (0, 0))


def test_counts_of_replicas_are_one_text() -> None:
    found = {}
    for name, number in (("a", 3), ("b", 5)):
        metrics = Metrics(list, lambda: 0)
        metrics.requests.labels("/ready", 200).inc(number)
        metrics.seconds.observe(number)
        found[name] = list(metrics.collect())
    families = list(text_string_to_metric_families(exposition(found).decode()))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    counted = {
        sample.labels["replica"]: sample.value
        for sample in samples
        if sample.name == "gpt2rt_requests_total"
    }
    assert counted == {"a": 3, "b": 5}
    assert all(sample.labels["replica"] in "ab" for sample in samples)


# ---- the command line


@pytest.mark.parametrize(
    "options", [("--replicas", "2"), ("--sessions",), ("--write-config", "never.yaml")]
)
def test_options_that_go_with_ray(command: Command, model: Path, options: tuple[str, ...]) -> None:
    assert "--ray" in command("serve", model, *options).in_one_line()


def test_a_file_is_written(command: Command, model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    file = tmp_path / "serve.yaml"
    ended = command("serve", model, "--ray", "--replicas", "1..3", "--write-config", file)
    assert ended.code == 0
    (application,) = yaml.safe_load(file.read_text("utf-8"))["applications"]
    found = Replicas.of_arguments(application["args"])
    assert found == Replicas(ServeSettings((str(model),), threads=1), 1, 3)


def test_the_file_on_the_page_is_what_its_command_writes(command: Command, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    page = (ROOT / "docs/serve.md").read_text("utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^\$ gpt2rt (.*--write-config.*)$", page, re.MULTILINE)
    (shown,) = re.findall(r"^```yaml\n(proxy_location.*?)^```", page, re.MULTILINE | re.DOTALL)
    file = tmp_path / "serve.yaml"
    *arguments, _ = shlex.split(line)
    assert command(*arguments, file).code == 0
    assert yaml.safe_load(shown) == yaml.safe_load(file.read_text("utf-8"))
    assert yaml.safe_load(shown)["applications"][0]["import_path"] == BUILDER


def test_what_is_wrong_is_told_before_a_cluster_starts(command: Command, model: Path) -> None:
    pytest.importorskip("ray")
    assert "HOST:PORT" in command("serve", model, "--ray=nowhere").in_one_line()
    assert "no cluster" in command("serve", model, "--ray", "127.0.0.1:1").in_one_line()
    assert "unknown model" in command("serve", "nosuch", "--ray").in_one_line()
