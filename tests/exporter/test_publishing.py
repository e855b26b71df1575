"""An exported bundle is whole or absent: what fails, is killed or finds no room leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from models import TINY, LargerWeights, make_bundle

pytest.importorskip("tensorflow")

from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.manifest import CUDA_GRAPHS, MANIFEST, PARITY, TOO_WIDE, WEIGHTS
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.cli.commands.export import quietly
from gpt2rt.engine.providers import better_on_cpu, provider_for
from gpt2rt.errors import (
    BadCheckpoint,
    BundleExists,
    Gpt2rtError,
    InvalidSetting,
    ParityFailure,
    ProviderMissing,
)
from gpt2rt_export import pipeline
from gpt2rt_export.fetch.lock import lock_of
from gpt2rt_export.progress import NoProgress
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.verify import parity
from gpt2rt_export.verify.gates import GATES, Gate

pytestmark = pytest.mark.slow  # most of these run TensorFlow


LOCK = ".bundle.lock"  # beside a bundle called `bundle`; it stays


def test_an_existing_bundle_is_replaced_only_by_force(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    pipeline.export(Recipe("demo", random_seed=1, output=place))
    before = (place / MANIFEST).read_bytes()
    with pytest.raises(BundleExists, match="--force"):
        pipeline.export(Recipe("demo", random_seed=2, output=place))
    assert (place / MANIFEST).read_bytes() == before
    pipeline.export(Recipe("demo", random_seed=2, output=place, force=True))
    assert (place / MANIFEST).read_bytes() != before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", LOCK}


def test_something_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(BundleExists, match="something else"):
        pipeline.export(Recipe("demo", output=tmp_path / "letters", force=True))
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"


def test_a_bundle_beyond_its_gate_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GATES, "fp32", Gate(1e-12, 1e-12, 1e-12, 1e-12, 1e-12))
    place = tmp_path / "bundle"
    with pytest.raises(
        ParityFailure,
        match=r"fp32 .* logits: [\d.e-]+ of .* adds: .* \(allowed 1e-12\); .* --no-verify",
    ):
        pipeline.export(Recipe("demo", output=place))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PermissionError(13, "denied")])
def test_a_publish_that_fails_between_its_renames_keeps_the_earlier_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    place = tmp_path / "bundle"
    first = pipeline.export(Recipe("demo", random_seed=1, output=place))
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((KeyboardInterrupt, Gpt2rtError)):
        pipeline.export(Recipe("demo", random_seed=2, output=place, force=True))
    assert Bundle.open(place).manifest == first.manifest
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", LOCK}


def test_one_export_at_a_time_works_on_a_destination(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    with lock_of(place), pytest.raises(BundleExists, match="another export is at work on it"):
        pipeline.export(Recipe("demo", random_seed=1, output=place))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    pipeline.export(Recipe("demo", random_seed=1, output=place, verify=False))


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("keep me")
    (tmp_path / LOCK).symlink_to(tmp_path / "letter")
    with pytest.raises(Gpt2rtError, match=rf"{LOCK}: .*; the bundle was not made"):
        pipeline.export(Recipe("demo", random_seed=1, output=tmp_path / "bundle"))
    assert (tmp_path / "letter").read_text() == "keep me"


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    pipeline.export(Recipe("demo", random_seed=1, output=tmp_path / "link"))
    pipeline.export(Recipe("demo", random_seed=2, output=tmp_path / "link", force=True))
    assert (tmp_path / "link").is_symlink()
    assert "seed 2" in Bundle.open(tmp_path / "real").manifest.origin


def test_a_checkpoint_of_another_shape_needs_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2RT_HOME", str(tmp_path))
    demo = catalog.demo_checkpoint()
    with pytest.raises(BadCheckpoint, match=r"n_vocab 1257, n_ctx 512, .* unlike 117M.* --output"):
        pipeline.export(Recipe("117M", checkpoint=demo))
    assert pipeline.export(Recipe("117M", checkpoint=demo, output=tmp_path / "small"))


def test_the_working_directory_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleExists, match="working directory"):
        Recipe("demo", output=Path()).check_destination()


@pytest.mark.parametrize("factor", [0.0, 1e4])
@pytest.mark.parametrize("n_ctx", [1, 2, 9])
def test_parity_of_odd_but_valid_models(tmp_path: Path, factor: float, n_ctx: int) -> None:
    """All-zero weights, huge ones, the shortest contexts: measured, not stumbled over."""
    hparams = HParams(n_vocab=260, n_ctx=n_ctx, n_embd=16, n_head=2, n_layer=1)
    weights = LargerWeights(hparams, seed=1, factor=factor)
    bundle = make_bundle(tmp_path / "bundle", weights, "fp32")
    report = parity.measure(bundle.directory, weights, "fused", "fp32")
    assert report.too_wide_for_cuda == (factor > 0)
    assert replace(report, cuda=None).failures() == []
    assert report.uncached.positions == n_ctx
    assert (report.cached is None) == (n_ctx == 1)


def test_values_beyond_float16_cost_the_graphs_for_cuda_only(tmp_path: Path) -> None:
    weights = LargerWeights(TINY, seed=1, factor=1e3)
    bundle = make_bundle(tmp_path / "bundle", weights, "fp32")
    notes = pipeline.verify(Recipe("demo", "fp32"), weights, bundle.directory, NoProgress())
    assert notes == [TOO_WIDE]
    left = {path.name for path in bundle.directory.iterdir()}
    assert left == {*bundle.manifest.files, MANIFEST, PARITY} - {*CUDA_GRAPHS}
    assert "cuda" not in json.loads((bundle.directory / PARITY).read_text())
    files = {name: file for name, file in bundle.manifest.files.items() if name in left}
    manifest = replace(bundle.manifest, files=files, notes=tuple(notes))
    narrowed = replace(bundle, manifest=manifest)
    with pytest.raises(ProviderMissing, match="float16 cannot hold its values"):
        provider_for(narrowed, "cuda")
    assert "float16 cannot hold its values" in str(better_on_cpu(narrowed))


# The command, which is killed as a stage begins.
KILLED = """
import os, signal, sys
from gpt2rt.cli import main
from gpt2rt.cli.commands import export

last, stage = sys.argv.pop(1), export.Stages.stage

def begun(self, title, total=None):
    if title.startswith(last):
        os.kill(os.getpid(), signal.SIGKILL)
    return stage(self, title, total)

export.Stages.stage = begun
main()
"""


@pytest.mark.parametrize("stage", ["Write", "Verify", "Publish"])
def test_a_killed_export_leaves_nothing_that_looks_like_a_bundle(
    tmp_path: Path, stage: str
) -> None:
    """Afterwards the same export succeeds and clears the remains."""
    place = tmp_path / "bundles" / "demo-fp32"
    command = [sys.executable, "-c", KILLED, stage, "export", "demo"]
    environment = {**os.environ, "GPT2RT_HOME": str(tmp_path)}
    ended = subprocess.run(command, stderr=subprocess.DEVNULL, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not place.exists()
    pipeline.export(Recipe("demo", output=place))
    Bundle.open(place).check()
    assert {path.name for path in place.parent.iterdir()} == {"demo-fp32", ".demo-fp32.lock"}


@pytest.mark.parametrize(
    "bad",
    [
        {"precision": "int7"},
        {"graph": "round"},
        {"graph": "standard", "precision": "int8"},
        {"random_seed": 1, "checkpoint": Path("x")},
        {"random_seed": -1},
    ],
)
def test_contradicting_recipes_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        Recipe("demo", **bad)  # type: ignore[arg-type]


# ---- the disk


def test_too_little_room_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10**7))
    with pytest.raises(Gpt2rtError, match=r"the bundle needs 2\d\.\d MB, 10\.0 MB are free; make"):
        pipeline.export(Recipe("demo", output=tmp_path / "bundle"))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_room_asked_for_is_enough_and_not_far_too_much(
    tiny_bundles: dict[str, Bundle], precision: str
) -> None:
    hparams = HParams(n_vocab=5000, n_ctx=64, n_embd=320, n_head=5, n_layer=4)
    bundle = make_bundle(Path(tempfile.mkdtemp()) / "b", LargerWeights(hparams, 1), precision)
    needed = pipeline.bytes_needed(Recipe("demo", precision), hparams) - (16 << 20)
    held = bundle.manifest.files[WEIGHTS].bytes
    shutil.rmtree(bundle.directory.parent)
    assert held <= needed <= 1.4 * held


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from gpt2rt.cli import main; main()"
    )
    place = tmp_path / "bundle"
    command = [sys.executable, "-c", script, "export", "demo", "--output", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "File too large; the bundle was not made" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = [tmp_path / "file" / "bundle"]
    if os.geteuid() != 0:  # root may write everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed" / "bundle")
    for place in places:
        with pytest.raises(Gpt2rtError, match="the bundle was not made"):
            pipeline.export(Recipe("demo", output=place))


def test_what_libraries_print_is_shown_only_with_an_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quietly():
        os.write(2, b"a greeting\n")
        print("of ours", file=sys.stderr)
    assert capfd.readouterr().err == "of ours\n"

    def fail() -> None:
        with quietly():
            os.write(2, b"a reason\n")
            raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        fail()
    assert capfd.readouterr().err == "a reason\n"
