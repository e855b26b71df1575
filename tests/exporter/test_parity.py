"""Parity: honest rounding passes the gate of its precision, and what is wrong does not."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

pytest.importorskip("tensorflow")

from checkpoints import huggingface_config, huggingface_tensors
from command_line import Command, Edit
from gpt2rt import GPT2, Passage
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.files import record
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.manifest import CUDA_GRAPH, EMBED, PARITY, PORTABLE_GRAPH, WEIGHTS
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.fused import FusedSlots
from gpt2rt.engine.provider_table import TABLE, Provider
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.engine.slots import Logits, Part
from gpt2rt.errors import BadText
from gpt2rt.sampling.selection import Draw
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export import pipeline
from gpt2rt_export.onnx_graph.cuda import CUDA
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.sources import OpenAICheckpoint, RandomCheckpoint
from gpt2rt_export.verify import agreement, parity, reference
from gpt2rt_export.verify.agreement import Loss
from gpt2rt_export.verify.gates import GATES
from gpt2rt_export.verify.parity import ParityReport
from gpt2rt_export.verify.sample import Sample
from models import TINY, LargerWeights, kernels_loaded, make_bundle

LAYER = 1


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint in which one variable is another."""

    whole: LargerWeights | RandomCheckpoint
    name: str
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    origin: str = "test"
    tokenizer: None = None
    files: tuple[()] = ()
    unused: tuple[()] = ()
    notes: tuple[()] = ()

    @property
    def hparams(self) -> HParams:
        return self.whole.hparams

    @property
    def identity(self) -> str:
        return f"{self.whole.identity}, damaged"

    def read(self, name: str) -> NDArray[np.float32]:
        values = self.whole.read(name)
        return self.change(values) if name == self.name else values


def measured(bundle: Bundle, weights: LargerWeights | RandomCheckpoint) -> ParityReport:
    return parity.measure(bundle.directory, weights, "fused", bundle.manifest.precision)


@pytest.fixture(scope="module")
def reports(
    tiny_bundles: dict[str, Bundle], tiny_weights: LargerWeights
) -> dict[str, ParityReport]:
    return {name: measured(bundle, tiny_weights) for name, bundle in tiny_bundles.items()}


# ---- what is measured


@given(st.integers(0, 3000))
def test_spans_cover_the_context_from_its_second_token_to_its_last(count: int) -> None:
    found = parity.spans(count)
    assert found == sorted(set(found))
    assert found[:1] == [1][: count - 1 if count else 0]
    assert found[-1:] == [count - 1][: count - 1 if count else 0]
    assert len(found) == max(0, min(count - 1, parity.SPANS * parity.SPAN))
    assert max(np.diff([0, *found]), default=0) <= max(1, count / (parity.SPANS - 1))


def test_fp32_is_tensorflow_but_for_the_last_digits(reports: dict[str, ParityReport]) -> None:
    report = reports["fp32"]
    assert report.failures() == []
    assert len(report.drift) == TINY.n_layer + 1
    assert max(report.drift) < 3e-6
    for way in report.agreements.values():
        assert way.relative < 3e-5
        assert way.top1 == way.top5 == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_honest_rounding_passes_whatever_the_weights(
    precision: str, reports: dict[str, ParityReport], tmp_path: Path
) -> None:
    """Those of a model that was never trained, and others six times as large."""
    assert reports[precision].failures() == []
    weights = RandomCheckpoint(TINY, seed=5)
    assert measured(make_bundle(tmp_path / "b", weights, precision), weights).failures() == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("large", "part"),
    [(False, "mlp/c_proj"), (True, "mlp/c_proj"), (True, "attn/c_proj"), (True, "attn/c_attn")],
)
def test_a_wrong_weight_fails_and_drift_grows_where_it_is(
    precision: str, large: bool, part: str, tmp_path: Path
) -> None:
    """A lost sign, in weights as they begin and in larger ones."""
    weights = LargerWeights(TINY, seed=7) if large else RandomCheckpoint(TINY, seed=7)
    wrong = DamagedCheckpoint(weights, f"model/h{LAYER}/{part}/w", np.negative)
    report = measured(make_bundle(tmp_path / "wrong", wrong, precision), weights)
    assert report.failures()
    right = measured(make_bundle(tmp_path / "right", weights, precision), weights)
    assert report.drift[: LAYER + 1] == right.drift[: LAYER + 1]
    assert report.drift[LAYER + 1] > 2 * right.drift[LAYER + 1]
    assert np.argmax(report.added) == LAYER + 1
    assert report.added[LAYER + 1] > GATES[precision].added


def test_a_cache_that_forgets_fails_though_the_text_in_one_piece_is_right(
    tiny_bundles: dict[str, Bundle], tiny_weights: LargerWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(FusedSlots):
        def step(self, parts: Sequence[Part], draws: Sequence[Draw] = ()) -> Logits:
            new = [p if len(p.tokens) > 1 else replace(p, start=0) for p in parts]
            return super().step(new, draws)

    monkeypatch.setitem(SLOTS, "fused", Forgetful)
    failures = measured(tiny_bundles["int8"], tiny_weights).failures()
    assert failures
    assert all(text.startswith("cached") for text in failures)


@pytest.mark.parametrize(
    ("stage", "graph", "precision"),
    [
        *(("cuda", CUDA_GRAPH, precision) for precision in sorted(CUDA)),
        *(("portable", PORTABLE_GRAPH, precision) for precision in sorted(PRECISIONS)),
    ],
)
def test_a_wrong_graph_for_another_provider_fails_though_the_others_are_right(
    stage: str,
    graph: str,
    precision: str,
    reports: dict[str, ParityReport],
    tiny_weights: LargerWeights,
    tmp_path: Path,
) -> None:
    assert getattr(reports[precision], stage) is not None
    bundle = make_bundle(tmp_path / "bundle", tiny_weights, precision)
    path = bundle.directory / graph
    model = onnx.load(path, load_external_data=False)
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    last.attribute.append(onnx.helper.make_attribute("alpha", -1.0))  # of its product
    onnx.save(model, path)
    failures = measured(bundle, tiny_weights).failures()
    assert failures
    assert all(text.startswith(stage) for text in failures)


def test_with_kernels_cached_and_uncached_logits_are_equal(
    reports: dict[str, ParityReport],
) -> None:
    for report in reports.values():
        assert report.exact == kernels_loaded()
        assert report.apart <= report.apart_allowed
        apart = replace(report, apart=1e-9, exact=True)
        assert apart.failures() == ["cached and uncached logits: 1e-09 apart (allowed 0)"]
        assert replace(apart, exact=False).failures() == []


def test_nothing_that_is_not_a_number_passes(reports: dict[str, ParityReport]) -> None:
    good = reports["fp32"]
    nan = float("nan")
    for bad in (
        replace(good, uncached=replace(good.uncached, largest=nan)),
        replace(good, uncached=replace(good.uncached, kl=nan)),
        replace(good, loss=replace(good.loss, bundle=nan)),
        replace(good, added=(0.0, nan)),
        replace(good, apart=nan),
        replace(good, added=(math.inf, 0.0)),
    ):
        assert len(bad.failures()) == 1


def compared(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> agreement.Agreement:
    return agreement.agreement_of(agreement.statistics(wanted, found, [0] * len(wanted)))


def test_equal_logits_agree_and_statistics_are_those_of_each_row() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 70, 40)).astype(np.float32)
    same = compared(a, a)
    assert (same.largest, same.mean, same.kl, same.top1, same.top5) == (0, 0, 0, 1, 1)
    found = compared(a, b)
    assert found.largest == pytest.approx(np.abs(a - b).max())
    assert found.top1 == pytest.approx((a.argmax(-1) == b.argmax(-1)).mean())
    p, q = (np.exp(agreement.log_softmax(x)) for x in (a, b))
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean())


# ---- models that do not know the text


@dataclass(frozen=True)
class Sharp(LargerWeights):
    """Logits so far apart that English costs hundreds of nats a token."""

    def read(self, name: str) -> NDArray[np.float32]:
        values = super().read(name)
        return values * np.float32(100) if name == "model/ln_f/g" else values


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("factor", [3.0, 6.0, 20.0])
def test_honest_exports_of_models_that_do_not_know_the_text_pass(
    precision: str, factor: float, tmp_path: Path
) -> None:
    weights = Sharp(TINY, 7, factor)
    report = measured(make_bundle(tmp_path / "b", weights, precision), weights)
    assert report.loss.tensorflow > 30
    assert not report.loss.known
    assert report.failures() == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("mlp/c_proj/w", np.negative),
        ("attn/c_proj/w", lambda values: np.swapaxes(values, -1, -2)),
        ("ln_1/g", lambda values: values * np.float32(2)),
    ],
)
def test_a_wrong_part_of_such_a_model_fails(
    precision: str,
    part: str,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    tmp_path: Path,
) -> None:
    weights = Sharp(TINY, 7, 6.0)
    wrong = DamagedCheckpoint(weights, f"model/h{LAYER}/{part}", change)
    assert measured(make_bundle(tmp_path / "b", wrong, precision), weights).failures()


@pytest.mark.slow
@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "int4"])
def test_4_bits_under_the_name_of_more_fail(precision: str, tmp_path: Path) -> None:
    weights = Sharp(TINY, 7, 6.0)
    directory = make_bundle(tmp_path / "b", weights, "int4").directory
    assert parity.measure(directory, weights, "fused", precision).failures()


@given(st.integers(1, 6), st.integers(0, 9))
def test_vocabularies_of_few_tokens_are_compared(n_vocab: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((7, n_vocab)).astype(np.float32)
    same = compared(rows, rows)
    assert (same.relative, same.tempered, same.top1, same.top5) == (0, 0, 1, 1)


def test_a_text_is_known_where_it_is_read_better_than_by_its_frequencies() -> None:
    tokens = [0, 1, 2, 3] * 8
    guess = agreement.guess_of(tokens, 300)
    assert guess == pytest.approx(math.log(4))
    assert agreement.guess_of(range(1000), 300) == math.log(300)
    for nats, known in ((1.0, True), (2.0, False)):
        assert Loss.of(np.full(32, nats), np.full(32, nats), guess).known is known


def test_the_text_is_the_one_given_else_held_out_else_english(tmp_path: Path) -> None:
    assert Sample.choose(None, tmp_path).source == "English prose"
    (tmp_path / "heldout.txt").write_text("e4 e5\n")
    assert Sample.choose(None, tmp_path).text == "e4 e5\n"
    own = tmp_path / "own.txt"
    own.write_bytes("\ufeffACGT".encode())
    assert Sample.choose(own, tmp_path) == Sample("ACGT", "own.txt")
    for content in (b"\xff\xfe", b" \n"):
        own.write_bytes(content)
        with pytest.raises(BadText, match=r"own\.txt: "):
            Sample.choose(own, None)
    with pytest.raises(BadText, match=r"none\.txt: "):
        Sample.choose(tmp_path / "none.txt", None)


@pytest.mark.slow
def test_export_and_verify_read_the_text_that_they_are_given_and_say_so(
    command: Command, home: Path, tmp_path: Path
) -> None:
    text = tmp_path / "own.txt"
    text.write_text("1. e4 e5 2. Nf3 Nc6 3. Bb5 a6\n" * 20)
    ended = command("export", "demo", "--parity-text", text)
    assert ended.code == 0
    assert "own.txt" in ended.out
    place = home / "bundles" / "demo-fp32"
    report = Bundle.open(place).parity()
    assert (report["text"], report["known"]) == ("own.txt", False)
    (row,) = command("verify", place, "--parity-text", text, "--json").records
    assert (row["text"], row["known"], row["perplexity"]) == (
        "own.txt",
        False,
        report["perplexity"],
    )
    (row,) = command("verify", place, "--json").records
    assert (row["text"], row["known"]) == ("the checkpoint's heldout.txt", True)
    refused = command("export", "demo", "--force", "--parity-text", tmp_path / "none.txt")
    assert "none.txt: No such file" in refused.err
    assert (
        "no verification"
        in command("export", "demo", "--no-verify", "--parity-text", text, "--force").err
    )


@pytest.mark.slow
@pytest.mark.parametrize("letters", ["e", "et", "eta"])
def test_a_model_of_few_tokens_passes(letters: str, tmp_path: Path) -> None:
    hparams = replace(TINY, n_vocab=len(letters) + 1)
    values = {name: RandomCheckpoint(hparams, 3).read(name) for name in hparams.variables()}
    place = tmp_path / "few"
    place.mkdir()
    save_file(huggingface_tensors(values), place / "model.safetensors", metadata={"format": "pt"})
    (place / "config.json").write_text(
        json.dumps(huggingface_config(hparams, bos_token_id=0, eos_token_id=0))
    )
    vocabulary = {"<|endoftext|>": 0} | {c: i for i, c in enumerate(letters, 1)}
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("#version: 0.2\n")
    recipe = Recipe("few", "int8", checkpoint=place, output=tmp_path / "bundle")
    assert pipeline.export(recipe).parity()["uncached"]["top5"] == 1


# ---- the loss


def test_rounding_without_direction_is_chance_and_a_loss_everywhere_is_not() -> None:
    rng = np.random.default_rng(1)
    nats = rng.gamma(2.0, 2.0, 1023)
    by_chance = Loss.of(nats, nats + 0.3 * rng.standard_normal(1023))
    assert by_chance.excess < 0 < abs(by_chance.change)
    everywhere = Loss.of(nats, nats + 0.1)
    assert everywhere.excess == pytest.approx(math.expm1(0.1 - agreement.CHANCE * everywhere.error))
    assert Loss.of(nats, nats - 0.1).excess == pytest.approx(everywhere.excess), "either way"
    assert Loss.of(nats, nats).excess == Loss.of(nats[:0], nats[:0]).excess == 0


def test_losses_beyond_every_number_are_still_numbers() -> None:
    huge = Loss.of(np.array([1e5]), np.array([3e5])).as_dict()
    assert all(map(math.isfinite, huge.values()))


# ---- gates


def test_every_precision_has_a_gate_and_fewer_bits_a_wider_one() -> None:
    assert set(PRECISIONS) <= set(GATES)
    limits = [(g.largest, g.tempered, g.kl, g.perplexity, g.added) for g in GATES.values()]
    assert all((np.diff(column) >= 0).all() for column in zip(*limits, strict=True))


PROMISED = {"fp32": 0.001, "fp16": 0.001, "int8": 0.003, "int4": 0.02}


@pytest.fixture(scope="module")
def heldout() -> tuple[list[Passage], NDArray[np.float64]]:
    """A text of the demo's kind, a context after the other, and TensorFlow's nats a token."""
    demo = catalog.demo_checkpoint()
    checkpoint, tokenizer = OpenAICheckpoint(demo), Tokenizer.read(demo)
    tokens = tokenizer.encode((demo / "heldout.txt").read_text(encoding="utf-8"))
    starts = range(0, len(tokens), n_ctx := checkpoint.hparams.n_ctx)
    passages = [Passage((tokenizer.start_of_text, *tokens[at : at + n_ctx])) for at in starts]
    nats = []
    for passage in passages:
        rows = agreement.log_softmax(reference.read(checkpoint, passage.tokens[:-1]).logits())
        nats.append(-rows[range(len(rows)), passage.tokens[1:]])
    return passages, np.concatenate(nats)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_demo_keeps_its_perplexity_on_its_own_kind_of_text(
    precision: str, heldout: tuple[list[Passage], NDArray[np.float64]], tmp_path: Path
) -> None:
    """What is promised of a text that the model knows; any text has to pass the gate only."""
    recipe = Recipe("demo", precision, output=tmp_path / "bundle", verify=False)
    model = GPT2.load(pipeline.export(recipe).directory)
    passages, wanted = heldout
    found = [-scores.logprobs for scores in model.score_tokens(passages)]
    assert len(wanted) > 10_000
    assert abs(Loss.of(wanted, np.concatenate(found)).change) < PROMISED[precision]


# ---- an export without


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
STAGES += ["Verify: the portable graph"]
VERIFYING = "".join(f"{stage}\n" for stage in STAGES)
WITH_CUDA = f"{VERIFYING}Verify: the graph for CUDA\n"


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
    assert (ended.code, ended.err) == (0, WITH_CUDA)
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
    last = ended.err.removeprefix(WITH_CUDA)
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
