"""`gpt2rt verify` makes the report of an export again, and changes nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from command_line import Command, Edit
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.manifest import EMBED, PARITY, WEIGHTS
from gpt2rt.engine.provider_table import TABLE, Provider
from gpt2rt_export.sources import RandomCheckpoint
from gpt2rt_export.verify import agreement, parity
from gpt2rt_export.verify.agreement import Loss
from gpt2rt_export.verify.gates import GATES
from gpt2rt_export.verify.parity import ParityReport
from models import TINY, make_bundle
from parity_cases import measured


@pytest.mark.slow
def test_without_verification_the_manifest_and_the_lists_say_so(
    command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home / "bundles" / "demo-fp32"
    ended = command("export", "demo", "--no-verify")
    assert ended.code == 0
    assert "not verified" in ended.out
    bundle = Bundle.open(place)
    assert not bundle.verified
    assert bundle.parity() == {}
    assert PARITY not in bundle.manifest.files
    assert not (place / PARITY).exists()
    assert "parity: not verified\n" in command("models", "info", str(place)).out
    assert "not verified" in command("models").out
    verified = command("verify", place)
    account = "Verify: the arrays of the files\n"
    assert (verified.code, verified.err.replace(account, "")) == (0, VERIFYING)
    assert not Bundle.open(place).verified, "verify writes nothing"


@pytest.mark.slow
def test_an_export_ends_with_the_table_and_keeps_it(command: Command, home: Path) -> None:
    ended = command("export", "demo", "--fp32")
    report = Bundle.open(home / "bundles" / "demo-fp32").parity()
    assert report["uncached"]["positions"] == report["tokens"] == 512
    assert report["cached"]["positions"] == parity.SPANS * parity.SPAN
    assert report["gate"]["added"] == GATES["fp32"].added
    for title in ("largest difference", "KL", "same best", "best five", "perplexity", "drift"):
        assert title in ended.out
    assert f"{report['uncached']['relative']:.2g} σ" in ended.out
    assert f"{report['perplexity']['tensorflow']:,.2f}" in ended.out


# ---- gpt2rt verify


STAGES = ["Check the hashes", "Load TensorFlow", "Read the checkpoint", "Verify: hidden states"]
STAGES += ["Verify: TensorFlow", "Verify: logits", "Verify: logits with a cache"]
STAGES += ["Verify: the portable graph", "Verify: the graph for CUDA"]
VERIFYING = "".join(f"{stage}\n" for stage in STAGES)


@pytest.fixture(scope="module")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("random") / "bundle"
    return make_bundle(place, RandomCheckpoint(TINY, 3), "int8", "random weights, seed 3")


@pytest.mark.slow
def test_verify_repeats_the_report_and_changes_nothing(
    command: Command, random_bundle: Bundle, tmp_path: Path
) -> None:
    """For a bundle that was packed and unpacked elsewhere, too."""
    command("pack", random_bundle.directory, "-o", tmp_path / "packed.gpt2rt")
    command("unpack", tmp_path / "packed.gpt2rt", "-o", tmp_path / "elsewhere")
    elsewhere = Bundle.open(tmp_path / "elsewhere")
    (row,) = command("verify", elsewhere.directory, "--json").records
    report = measured(random_bundle, RandomCheckpoint(TINY, 3)).as_dict()
    assert {key: row[key] for key in report} == report
    assert (row["passed"], row["failures"]) == (True, [])
    ended = command("verify", elsewhere.directory)
    assert (ended.code, ended.err) == (0, VERIFYING)
    assert "KL divergence" in ended.out
    assert Bundle.open(elsewhere.directory) == elsewhere
    elsewhere.check()


def test_verify_on_another_provider_compares_its_logits(
    command: Command, random_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = Provider("stand-in", "CPUExecutionProvider", "portable", "onnxruntime")
    monkeypatch.setitem(TABLE, "stand-in", stand_in)
    told = ("verify", random_bundle.directory, "--provider", "stand-in", "--json")
    (row,) = command(*told).records
    assert (row["provider"], row["passed"]) == ("stand-in:cpu", True)
    (own,) = command("verify", random_bundle.directory, "--json").records
    assert own["provider"] == "cpu"
    assert own["portable"] == row["portable"]
    assert own["uncached"]["largest"] != row["uncached"]["largest"]


def test_verify_of_other_weights_ends_with_an_error(
    command: Command, random_bundle: Bundle, bundle: Bundle, edit_manifest: Edit
) -> None:
    edit_manifest(bundle, origin="random weights, seed 4")
    ended = command("verify", bundle.directory)
    assert ended.code == 1
    assert "drift after" in ended.out, "the table is shown all the same"
    last = ended.err.removeprefix(VERIFYING)
    assert last.count("\n") == 1
    assert re.search(r"^gpt2rt: .*: uncached logits: .* \(allowed ", last)
    ended = command("verify", bundle.directory, "--json")
    assert ended.code == 1
    assert ended.records[0]["passed"] is False
    assert ended.records[0]["failures"]


@pytest.mark.slow
def test_verify_finds_the_embedded_checkpoint_by_the_origin(
    command: Command, home: Path, edit_manifest: Edit
) -> None:
    place = home / "copy"
    shutil.copytree(Path(catalog.__file__).parents[1] / "demo" / "bundle", place)
    assert command("verify", place).code == 0
    demo = catalog.demo_checkpoint()
    edit_manifest(Bundle.open(place), model="my-own")
    refused = command("verify", place)
    assert "my-own: its checkpoint is not in the home directory; name it" in refused.err
    assert command("verify", place, "--checkpoint", demo).code == 0
    edit_manifest(Bundle.open(place), model="117M")
    assert "`gpt2rt download 117M`" in command("verify", place).err
    shutil.copytree(demo, home / "checkpoints" / "117M")
    assert command("verify", place).code == 0
    edit_manifest(Bundle.open(place), origin="OpenAI checkpoint, sha256 of the index 00")
    refused = command("verify", place)
    assert refused.code == 1
    assert "not what the bundle was made of" in refused.err


def test_verify_names_a_damaged_file_before_it_measures(
    command: Command, random_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(random_bundle.directory, tmp_path / "b")
    data = bytearray((tmp_path / "b" / WEIGHTS).read_bytes())
    data[100] ^= 1
    (tmp_path / "b" / WEIGHTS).write_bytes(data)
    ended = command("verify", tmp_path / "b")
    assert ended.code == 1
    assert f"{WEIGHTS}: sha256" in ended.err
    assert "TensorFlow" not in ended.err


def test_verify_of_a_bundle_without_the_embedding_graph_says_how_to_get_one(
    command: Command, bundle: Bundle, edit_manifest: Edit
) -> None:
    kept = {name: r for name, r in bundle.manifest.files.items() if name != EMBED}
    edit_manifest(bundle, files=kept)
    assert "export it again" in command("verify", bundle.directory).in_one_line()


@pytest.mark.parametrize("change", [{"precision": "int2"}, {"graph": "newer"}])
def test_verify_of_a_bundle_of_an_unknown_kind(
    command: Command, bundle: Bundle, edit_manifest: Edit, change: dict[str, str]
) -> None:
    edit_manifest(bundle, **change)
    assert "unknown kind" in command("verify", bundle.directory).in_one_line()


def test_numbers_that_json_does_not_have_are_null(
    command: Command, bundle: Bundle, edit_manifest: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_manifest(bundle, origin="random weights, seed 3")
    broken = agreement.Agreement(1, math.nan, math.nan, 1.0, math.nan, math.nan, 0.0, 0.0)
    report = ParityReport(
        "a text",
        48,
        broken,
        None,
        None,
        None,
        Loss(1.0, math.nan, math.nan),
        (math.inf,),
        (math.inf,),
        math.nan,
        False,
        GATES["int8"],
        GATES["int8"],
    )
    monkeypatch.setattr(parity, "measure", lambda *_: report)
    ended = command("verify", bundle.directory, "--json")
    assert ended.code == 1
    row = json.loads(ended.out, parse_constant=lambda name: pytest.fail(name))
    assert row["uncached"]["kl"] is None
    assert "nan" in command("verify", bundle.directory).out


def test_the_files_of_the_report_are_of_the_bundle(random_bundle: Bundle) -> None:
    for name, wanted in random_bundle.manifest.files.items():
        assert record(random_bundle.directory / name) == wanted
