"""The exporter with real TensorFlow: all graphs are equal, and a bundle is whole or absent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import reference
from models import TINY, LargerWeights, make_bundle

pytest.importorskip("tensorflow")

from gpt2rt import GPT2, EmbedParams, SamplingParams, Stopping
from gpt2rt.bundles import catalog
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.hparams import HParams
from gpt2rt.bundles.interface import embedding
from gpt2rt.bundles.manifest import EMBED, GRAPH, MANIFEST, WEIGHTS
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.cli.export import quietly
from gpt2rt.engine.providers import Threads, open_session
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.engine.slots import Part
from gpt2rt.errors import (
    BadCheckpoint,
    BundleExists,
    Gpt2rtError,
    InvalidSetting,
    ParityFailure,
)
from gpt2rt_export import pipeline
from gpt2rt_export.fetch.lock import lock_of
from gpt2rt_export.onnx_graph import graph
from gpt2rt_export.onnx_graph.convert import convert
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.standard import standard
from gpt2rt_export.onnx_graph.weights import attach
from gpt2rt_export.recipe import Recipe
from gpt2rt_export.verify import agreement, parity
from gpt2rt_export.verify import reference as tensorflow
from gpt2rt_export.verify.gates import GATES, Gate

pytestmark = pytest.mark.slow  # most of these run TensorFlow

LOCK = ".bundle.lock"  # beside a bundle called `bundle`; it stays
TEXT = np.random.default_rng(3).integers(0, TINY.n_vocab, TINY.n_ctx).tolist()


@pytest.fixture(scope="module")
def converted() -> onnx.ModelProto:
    return convert(TINY)


@pytest.fixture(scope="module")
def tensorflow_logits(tiny_weights: LargerWeights) -> np.ndarray:
    return tensorflow.read(tiny_weights, TEXT).logits()


def write(directory: Path, kind: str, converted: onnx.ModelProto, weights: LargerWeights) -> Path:
    model, wanted = (
        standard(converted, TINY)
        if kind == "standard"
        else fuse(converted, TINY, STORAGE["fp32"], "float32")
    )
    attach([model], wanted, weights, directory / WEIGHTS)
    onnx.save(model, directory / GRAPH)
    return directory / GRAPH


def test_tensorflow_equals_oracle(
    tensorflow_logits: np.ndarray,
    tiny_weights: LargerWeights,
) -> None:
    oracle = reference.logits(tiny_weights.read, TINY, TEXT)
    np.testing.assert_allclose(tensorflow_logits, oracle, atol=2e-5)


@pytest.mark.parametrize("kind", ["fused", "standard"])
def test_graphs_equal_tensorflow(
    kind: str,
    converted: onnx.ModelProto,
    tiny_weights: LargerWeights,
    tensorflow_logits: np.ndarray,
    tmp_path: Path,
) -> None:
    """Uncached, token by token, and cached at every split."""
    session = open_session(write(tmp_path, kind, converted, tiny_weights), Threads(1))
    slots = SLOTS[kind](session, TINY, 1)
    whole = parity.uncached(slots, TEXT)
    np.testing.assert_allclose(whole, tensorflow_logits, atol=2e-5)
    stepwise = parity.cached(slots, TEXT, range(1, len(TEXT)))
    np.testing.assert_allclose(stepwise, tensorflow_logits[1:], atol=2e-5)
    for split in range(1, len(TEXT), 5):
        slots.step([Part(0, 0, TEXT[:split])])
        rest = slots.step([Part(0, split, TEXT[split:], len(TEXT) - split)])
        np.testing.assert_allclose(rest, tensorflow_logits[split:], atol=2e-5)


def test_tensorflow_graph_with_past_equals_without(
    tiny_weights: LargerWeights,
    tensorflow_logits: np.ndarray,
) -> None:
    import tensorflow as tf

    weights = {
        n.removeprefix("model/"): tf.constant(tiny_weights.read(n)) for n in TINY.variables()
    }
    past = graph.empty_past(TINY, 1)
    rows = []
    for part in (TEXT[:7], TEXT[7:8], TEXT[8:]):
        logits, past = graph.gpt2(tf.constant([part], tf.int32), past, weights, TINY)
        rows.append(logits[0].numpy())
    np.testing.assert_allclose(np.concatenate(rows), tensorflow_logits, atol=2e-5)
    assert tuple(past.shape) == TINY.past_shape(1, len(TEXT))


def test_fused_graph_is_small_and_keeps_no_trace_of_the_combined_past(
    converted: onnx.ModelProto,
) -> None:
    model, _ = fuse(converted, TINY, STORAGE["fp32"], "float32")
    kinds = Counter(node.op_type for node in model.graph.node)
    called = {
        "NormLinearFloat",
        "Attention",
        "NormLinearGeluFloat",
        "LinearAddFloat",
        "NormHeadFloat",
    }
    assert {made.name for made in model.functions} == called
    for kind, count in (("Attention", 1), ("NormLinearGeluFloat", 1), ("LinearAddFloat", 2)):
        assert kinds[kind] == count * TINY.n_layer
    assert set(kinds) - called == {"Gather", "Add"}, "the rows of embeddings, and the wanted ones"
    assert sum(kinds.values()) == 5 * TINY.n_layer + 6
    assert "past" not in [value.name for value in model.graph.input]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_embedding_is_stored_once(precision: str, converted: onnx.ModelProto) -> None:
    """It is multiplied by as lm_head as it is looked up."""
    _, weights = fuse(converted, TINY, STORAGE[precision], "float16")
    (wte,) = (weight for weight in weights if weight.source == "model/wte")
    stored, *_ = wte.make(np.ones((TINY.n_vocab, TINY.n_embd), np.float32))
    assert stored.size >= TINY.n_vocab * TINY.n_embd


def test_fusion_needs_every_named_cut(converted: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(converted)
    for node in broken.graph.node:
        if "h1/gelu/out:0" in node.output:
            node.output[0] = "renamed"
    with pytest.raises(Exception, match="h1/gelu/out:0"):
        fuse(broken, TINY, STORAGE["fp32"], "float32")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The embedded demo checkpoint, exported for real, in every precision and graph."""
    home = tmp_path_factory.mktemp("home")
    recipes = [Recipe("demo", precision, output=home / precision) for precision in PRECISIONS]
    recipes.append(Recipe("demo", graph="standard", output=home / "standard"))
    return {recipe.output.name: pipeline.export(recipe) for recipe in recipes if recipe.output}


# Largest difference of logits in their deviations; change of perplexity on its held-out text.
CLOSE = {"fp32": (1e-3, 1e-4), "fp16": (0.02, 2e-3), "int8": (1.0, 0.05), "int4": (4.0, 0.2)}


def test_demo_reaches_its_parity(demo: dict[str, Bundle]) -> None:
    for bundle in demo.values():
        largest, change = CLOSE[bundle.manifest.precision]
        for run in ("uncached", "cached"):
            measured = bundle.parity()[run]
            relative = measured["largest"] / measured["deviation"]
            assert relative < largest
        perplexity = bundle.parity()["perplexity"]
        assert abs(perplexity["change"]) < change


def test_demo_graphs_write_the_same_text(demo: dict[str, Bundle]) -> None:
    greedy = SamplingParams(temperature=0)
    texts = {
        name: GPT2.load(demo[name].directory, threads=1).generate(
            None, greedy, Stopping(128, end_of_text=False)
        )
        for name in ("fp32", "standard")
    }
    assert texts["fp32"].tokens == texts["standard"].tokens


def test_demo_greedy_equals_tensorflow(demo: dict[str, Bundle]) -> None:
    """128 greedy tokens: TensorFlow's argmax agrees at every position of the text so far."""
    from gpt2rt_export.sources import OpenAICheckpoint

    completion = GPT2.load(demo["fp32"].directory).generate(
        "The", SamplingParams(temperature=0), Stopping(128, end_of_text=False)
    )
    fed = [*completion.prompt_tokens, *completion.tokens]
    logits = tensorflow.read(OpenAICheckpoint(catalog.demo_checkpoint()), fed).logits()
    best = np.argmax(logits[len(completion.prompt_tokens) - 1 : -1], axis=-1)
    assert best.tolist() == list(completion.tokens)


@pytest.mark.parametrize("kind", ["fp32", "standard"])
def test_demo_scores_equal_tensorflow(demo: dict[str, Bundle], kind: str) -> None:
    """Log-probabilities of a whole context, and of more text than that, in windows."""
    from gpt2rt_export.sources import OpenAICheckpoint

    model = GPT2.load(demo[kind].directory)
    text = (catalog.demo_checkpoint() / "heldout.txt").read_text(encoding="utf-8")[:3000]
    tokens = [model.tokenizer.end_of_text, *model.tokenizer.encode(text)]
    n_ctx = model.hparams.n_ctx
    assert n_ctx + 100 < len(tokens)
    scores = model.score(text, stride=100).tokens
    done = 1
    for end in [*range(n_ctx + 1, len(tokens), 100), len(tokens)]:
        read = tokens[max(0, end - n_ctx - 1) : end]
        logits = tensorflow.read(OpenAICheckpoint(catalog.demo_checkpoint()), read[:-1]).logits()
        pairs = list(zip(logits, read[1:], strict=True))[done - end :]
        wanted = [agreement.log_softmax(row)[token] for row, token in pairs]
        found = [score.logprob for score in scores[done - 1 : end - 1]]
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        done = end


@pytest.mark.parametrize("kind", ["fp32", "standard"])
def test_demo_hidden_states_equal_tensorflow(demo: dict[str, Bundle], kind: str) -> None:
    import tensorflow as tf

    from gpt2rt_export.sources import OpenAICheckpoint

    model = GPT2.load(demo[kind].directory)
    hparams = model.hparams
    checkpoint = OpenAICheckpoint(catalog.demo_checkpoint())
    weights = {
        name.removeprefix("model/"): tf.constant(checkpoint.read(name))
        for name in hparams.variables()
    }
    text = "Once, in a village by the sea, there lived an old fisherman."
    tokens = model.tokenizer.encode(text)
    x = graph.embed(tf.constant([tokens], tf.int32), tf.constant(0), weights)
    states, past = [x], graph.empty_past(hparams, 1)[:, 0]
    for i in range(hparams.n_layer):
        x, _ = graph.block(x, past, i, weights, hparams)
        states.append(x)
    states[-1] = graph.norm(x, "ln_f", weights, hparams)
    for layer, wanted in enumerate(states):
        found = model.embed(text, EmbedParams(layer=layer)).vectors
        np.testing.assert_allclose(found, wanted[0].numpy(), atol=1e-4)


def test_the_embedding_graph_is_a_part_of_the_whole(demo: dict[str, Bundle]) -> None:
    """No logits, and no weight that the bundle's own graph does not read."""
    for bundle in demo.values():
        whole, part = (
            onnx.load(bundle.directory / name, load_external_data=False) for name in (GRAPH, EMBED)
        )
        external, own = (
            {w.name: str(w.external_data) for w in model.graph.initializer}
            for model in (whole, part)
        )
        assert own.items() <= external.items()
        m = bundle.manifest
        ports = embedding(m.hparams, m.graph, m.kv).outputs
        assert [value.name for value in part.graph.output] == [port.name for port in ports]
        assert not any("logits" in node.output for node in part.graph.node)
    onnx.checker.check_model(str(demo["standard"].directory / EMBED), full_check=True)


def test_export_is_repeatable(demo: dict[str, Bundle], tmp_path: Path) -> None:
    again = pipeline.export(Recipe("demo", "int8", output=tmp_path / "again"))
    assert again.manifest == demo["int8"].manifest


def test_the_embedded_bundle_is_what_the_exporter_makes(demo: dict[str, Bundle]) -> None:
    embedded = Bundle.open(catalog.demo_bundle()).manifest.files
    assert set(embedded) == set(demo["int8"].manifest.files)
    assert embedded[WEIGHTS] == demo["int8"].manifest.files[WEIGHTS]


def test_standard_bundle_passes_the_checker(demo: dict[str, Bundle]) -> None:
    onnx.checker.check_model(str(demo["standard"].directory / GRAPH), full_check=True)
    model = onnx.load(demo["standard"].directory / GRAPH, load_external_data=False)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_random_weights_are_a_function_of_the_seed(tmp_path: Path) -> None:
    one, same, other = (
        pipeline.export(Recipe("demo", random_seed=seed, output=tmp_path / str(i)))
        for i, seed in enumerate((1, 1, 2))
    )
    assert one.manifest.files == same.manifest.files
    assert one.manifest.files[WEIGHTS] != other.manifest.files[WEIGHTS]
    assert one.manifest.tokenizer == "synthetic"
    text = "any text: é 👋"
    tokenizer = GPT2.load(one.directory).tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


# ---- publishing


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
    assert report.failures() == []
    assert report.uncached.positions == n_ctx
    assert (report.cached is None) == (n_ctx == 1)


@pytest.mark.parametrize("stage", ["Write", "Verify", "Publish"])
def test_a_killed_export_leaves_nothing_that_looks_like_a_bundle(
    tmp_path: Path, stage: str
) -> None:
    """SIGKILL as the stage begins; afterwards the same export succeeds and clears the remains."""
    place = tmp_path / "bundles" / "demo-fp32"
    command = [sys.executable, "-m", "gpt2rt", "export", "demo"]
    environment = {**os.environ, "GPT2RT_HOME": str(tmp_path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(stage):
            time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
    process.wait()
    if (place / MANIFEST).exists():
        assert stage == "Publish", "only the last stage can be over before the kill comes"
    else:
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


def test_parity_covers_the_whole_context(demo: dict[str, Bundle]) -> None:
    report = demo["int8"].parity()
    assert (
        report["tokens"]
        == report["uncached"]["positions"]
        == HParams.read(catalog.demo_checkpoint() / "hparams.json").n_ctx
    )


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
