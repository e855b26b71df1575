"""Corpora on a cluster of two nodes: the same bytes as without one, whatever goes wrong."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from shutil import copytree
from typing import Any

import pytest

pytest.importorskip("ray")

from ray import cloudpickle

from corpus_kills import KINDS, KilledJob, compare, files_of
from file_server import FileServer
from gpt2rt import EmbedParams, SamplingParams, Stopping, errors
from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.packing import pack
from gpt2rt.corpus import local, nodes, ray_data
from gpt2rt.corpus.corpus import Corpus
from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.embed_job import EmbedJob
from gpt2rt.corpus.generate_job import GenerateJob
from gpt2rt.corpus.jobs import Job
from gpt2rt.corpus.loading import Loading
from gpt2rt.corpus.output import Output
from gpt2rt.corpus.part import cut
from gpt2rt.corpus.score_job import ScoreJob
from gpt2rt.corpus.streams import BytesRead
from gpt2rt.corpus.tokenize_job import TokenizeJob
from gpt2rt.errors import BadBundle, ClusterFailure, Gpt2rtError, InvalidSetting
from gpt2rt.runs import Run
from ray_clusters import TwoNodes, two_nodes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(sys.platform != "linux", reason="two nodes on a machine are for Linux"),
]

ROWS, PART_ROWS = 300, 32
LENGTH = Stopping(6, end_of_text=False)
JOBS: dict[str, Job] = {
    "generate": GenerateJob(Run(None, 2, SamplingParams(seed=5), LENGTH, batch_size=8)),
    "score": ScoreJob(),
    "embed": EmbedJob(EmbedParams(by="text", pooling="mean")),
    "tokenize": TokenizeJob(),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes() as started, ray_data.joined(started.address):
        yield started


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Rows of which some are no texts."""
    with (tmp_path / "in.jsonl").open("w") as file:
        for number in range(ROWS):
            row: Any = {"text": f"text {number} of a few", "prompt": f"so {number}", "n": number}
            file.write("no JSON\n" if number % 50 == 7 else json.dumps(row) + "\n")
    return tmp_path / "in.jsonl"


class Runner:
    """Runs jobs over one corpus, into folders beside it."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path, self.bundle = path, bundle

    def run(
        self, name: str, job: Job, *, model: str | None = None, most: int | None = None, **how: Any
    ) -> Path:
        """The folder of a job's output; `on_ray`, else in this process; `most` parts of it."""
        usual = "prompt" if job.name == "generate" else "text"
        corpus = Corpus.of([str(self.path)], usual=usual)
        place = self.path.parent / name
        on_ray, loading = how.pop("on_ray", True), Loading(threads=how.pop("threads", 1))
        with Output(Destination.of(f"{place}/"), job, self.bundle, corpus, PART_ROWS) as output:
            due, layout = output.remaining(), output.layout
            if on_ray:
                what = job, model or str(self.bundle.directory), self.bundle, corpus, PART_ROWS
                parts = ray_data.made(*what, due, layout, loading, meter=BytesRead(), **how)
            else:
                rows = due.of(cut(corpus.rows(), PART_ROWS))
                parts = local.made(job, job.load(self.bundle, loading), rows, layout)
            for nth, part in enumerate(parts, 1):
                output.add(part)
                if nth == most:
                    parts.close()  # type: ignore[attr-defined]
                    return place
            output.finish()
        return place


@pytest.fixture
def runner(corpus: Path, tiny_bundles: dict[str, Bundle]) -> Runner:
    return Runner(corpus, tiny_bundles["int8"])


@pytest.mark.parametrize(("name", "actors"), [("generate", None), ("embed", None), ("tokenize", 1)])
def test_a_cluster_gives_the_same_bytes(
    name: str, actors: int | None, cluster: TwoNodes, runner: Runner
) -> None:
    plain = runner.run("plain", JOBS[name], on_ray=False)
    compare(plain, runner.run("clustered", JOBS[name], actors=actors))
    assert (plain / "_rejects.jsonl").read_text().count("\n") == ROWS // 50


def test_a_bundle_from_a_url_comes_once(cluster: TwoNodes, runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    pack(runner.bundle, tmp_path / "served" / "tiny.gpt2rt")
    with FileServer(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        url = f"{server.root}/any/tiny.gpt2rt"
        place = runner.run("clustered", JOBS["score"], model=url)
        server.over.set()
        server.shutdown()
    compare(runner.run("plain", JOBS["score"], on_ray=False), place)
    assert len(server.asked_for("tiny.gpt2rt")) == 1  # both nodes have one home directory


def test_a_job_goes_on_with_the_same_texts_only(cluster: TwoNodes, runner: Runner) -> None:
    place = runner.run("clustered", JOBS["score"], most=3)
    done = {path.name: path.stat().st_mtime_ns for path in place.glob("part-*")}
    assert len(done) >= 3
    before, text = files_of(place), runner.path.read_text()
    first = place / min(done)
    number = json.loads(first.read_text().splitlines()[0])["line"]
    lines = text.splitlines(keepends=True)
    lines[number - 1] = '{"text": "another"}\n'
    runner.path.write_text("".join(lines))
    with pytest.raises(InvalidSetting, match="made of other texts"):
        runner.run("clustered", JOBS["score"])
    assert files_of(place) == before
    runner.path.write_text(text)
    runner.run("clustered", JOBS["score"])
    assert {name: (place / name).stat().st_mtime_ns for name in done} == done
    compare(runner.run("plain", JOBS["score"], on_ray=False), place)


def test_what_was_read_before_a_bad_file_is_done(cluster: TwoNodes, runner: Runner) -> None:
    (runner.path.parent / "texts").mkdir()
    runner.path = runner.path.rename(runner.path.parent / "texts" / "a.jsonl").parent
    (runner.path / "b.jsonl.gz").write_bytes(b"no gzip")
    made = []
    for name, on_ray in (("plain", False), ("clustered", True)):
        with pytest.raises(Gpt2rtError, match=r"b\.jsonl\.gz") as failed:
            runner.run(name, JOBS["tokenize"], on_ray=on_ray)
        parts = (runner.path.parent / name).glob("*part-*")
        made.append((one_line(failed), {part.name: part.read_bytes() for part in parts}))
    assert made[0] == made[1]
    assert len(made[0][1]) == ROWS // PART_ROWS


def test_settings_that_the_model_does_not_allow(cluster: TwoNodes, runner: Runner) -> None:
    job = EmbedJob(EmbedParams(layer=99))
    with pytest.raises(InvalidSetting, match="layer"):
        runner.run("clustered", job)


def test_more_cores_than_a_node_has(cluster: TwoNodes, runner: Runner) -> None:
    with pytest.raises(InvalidSetting, match="no node has 64 CPUs: the most is 1"):
        runner.run("clustered", JOBS["score"], threads=64)


def one_line(error: pytest.ExceptionInfo[Gpt2rtError]) -> str:
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_nodes_that_do_not_fit(
    cluster: TwoNodes, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterFailure) as other:
        nodes.check(str(runner.bundle.directory), "0" * 64, gpu=False)
    assert "another bundle than where the job began" in one_line(other)
    with pytest.raises(ClusterFailure) as none:
        nodes.check("no-such-model", runner.bundle.digest, gpu=False)
    assert "node " in one_line(none)
    with pytest.raises(InvalidSetting, match="no node with a GPU"):
        nodes.check(str(runner.bundle.directory), runner.bundle.digest, gpu=True)
    monkeypatch.setattr(nodes, "__version__", "99.0")
    with pytest.raises(ClusterFailure) as version:
        nodes.check(str(runner.bundle.directory), runner.bundle.digest, gpu=False)
    assert "not 99.0 as here; install the same" in one_line(version)


class Deadly(TokenizeJob):
    """Ends the process at one text."""

    def results(self, model: Any, rows: Any) -> Any:
        held = list(rows)
        if any(row.number == 40 for row in held):
            os._exit(1)
        return super().results(model, held)


def test_a_text_that_ends_every_worker_ends_the_job(
    cluster: TwoNodes, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_data, "TRIES", 1)
    with pytest.raises(ClusterFailure, match="what was done is kept") as failed:
        runner.run("clustered", Deadly())
    one_line(failed)


def test_whatever_is_killed_the_bytes_are_the_same(cluster: TwoNodes, tmp_path: Path) -> None:
    job = KilledJob(cluster, tmp_path, rows=2000)
    try:
        job.survive(KINDS, Random(1))
        job.end()
    finally:
        job.close()
    assert set(job.kills) == set(KINDS)


def test_every_error_comes_through() -> None:
    kinds: list[Any] = [kind for kind in vars(errors).values() if inspect.isclass(kind)]
    for kind in kinds:
        error: Exception = kind("what went wrong")
        found = pickle.loads(pickle.dumps(error))
        assert type(found) is kind
        assert str(found) == "what went wrong"


def test_how_nodes_find_a_bundle(
    runner: Runner, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = runner.bundle
    assert nodes.place(str(tiny.directory), tiny) == str(tiny.directory.absolute())
    assert nodes.place("s3://bucket/tiny.gpt2rt", tiny) == "s3://bucket/tiny.gpt2rt"
    assert nodes.place("DEMO", library.find("demo")) == "demo"
    assert nodes.place(None, library.default()) == "demo"
    named = replace(tiny, directory=home / "bundles" / "117M-int8")
    assert nodes.place("124M", named) == "117M-int8"
    monkeypatch.setenv("GPT2RT_MODEL", "s3://bucket/tiny.gpt2rt")
    assert nodes.place(None, tiny) == "s3://bucket/tiny.gpt2rt"
    with pytest.raises(BadBundle, match="another bundle"):
        nodes.opened(str(tiny.directory), "0" * 64)


def test_nodes_find_the_embedded_demo_beside_an_exported_one(runner: Runner, home: Path) -> None:
    embedded = library.default()
    copytree(runner.bundle.directory, home / "bundles" / "demo-int8")
    assert library.find("demo").digest == runner.bundle.digest
    for bundle in (embedded, runner.bundle):
        assert nodes.opened("demo", bundle.digest).digest == bundle.digest


def test_without_ray_nothing_of_it_is_imported(runner: Runner) -> None:
    code = (
        "import sys; from gpt2rt.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name.split('.')[0] == 'ray' for name in sys.modules))"
    )
    what = ["score", "--model", str(runner.bundle.directory), "--file", str(runner.path)]
    what += ["--output", str(runner.path.with_name("out.jsonl"))]
    done = subprocess.run([sys.executable, "-c", code, *what], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
