"""Other libraries beside gpt2rt: the same weights, the right precisions, absences by name."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command_line import Command
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import BadCheckpoint, Gpt2rtError, InvalidSetting
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_bench import peers
from gpt2rt_bench.cases import Case, Configuration, with_others
from gpt2rt_bench.peers import PeerSubject, environment, weights
from gpt2rt_bench.peers.table import PEERS
from gpt2rt_bench.subject import Subject
from gpt2rt_export.sources import HuggingFaceCheckpoint, RandomCheckpoint
from models import TINY, LargerWeights

ROOT = Path(__file__).parents[2]
WORKERS = Path(peers.__file__).parent / "workers"
# Does what a peers' Python does, but for the peers themselves.
FAKE = """#!/bin/sh
case "$1" in
  -c) echo '{lacking}' ;;
  *) {action} ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Path]:
    """A Python that lacks the modules named and does `action` in place of running a worker."""

    def make(*lacking: str, action: str = 'eval touch \\"\\$5\\"') -> Path:
        path = tmp_path / "python"
        path.write_text(FAKE.format(lacking=json.dumps(lacking), action=action))
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def checkpoint(tmp_path: Path, bundle: Bundle, tiny_weights: LargerWeights) -> Path:
    directory = tmp_path / "checkpoint"
    weights.write_checkpoint(bundle, tiny_weights, directory)
    return directory


@pytest.fixture
def random_bundle(bundle: Bundle, edit_manifest: Callable[..., None], home: Path) -> Bundle:
    """A bundle that says it was made from random weights."""
    edit_manifest(bundle, origin="random weights, seed 3")
    return Bundle.open(bundle.directory)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' own directory on the path, as when they run."""
    monkeypatch.syspath_prepend(str(WORKERS))
    monkeypatch.syspath_prepend(str(WORKERS.parents[1]))


def test_the_written_checkpoint_is_the_same_model(
    checkpoint: Path, bundle: Bundle, tiny_weights: LargerWeights
) -> None:
    again = HuggingFaceCheckpoint(checkpoint)
    assert again.hparams == TINY
    for name in TINY.variables():
        np.testing.assert_array_equal(again.read(name), tiny_weights.read(name))
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["eos_token_id"] == Tokenizer.read(bundle.directory).end_of_text


def test_an_untied_head_is_written_too(tmp_path: Path, bundle: Bundle) -> None:
    untied = RandomCheckpoint(replace(TINY, tied=False, n_inner=72, activation="relu"), 1)
    weights.write_checkpoint(bundle, untied, tmp_path / "untied")
    again = HuggingFaceCheckpoint(tmp_path / "untied")
    assert again.hparams == untied.hparams
    np.testing.assert_array_equal(again.read("model/lm_head"), untied.read("model/lm_head"))


def test_weights_that_cannot_be_found_are_asked_for(
    bundle: Bundle, home: Path, fake: Callable[..., Path]
) -> None:
    with pytest.raises(BadCheckpoint, match="--checkpoint"):
        peers.subjects([bundle], fake())


def test_another_checkpoint_is_refused(
    bundle: Bundle, home: Path, checkpoint: Path, fake: Callable[..., Path]
) -> None:
    with pytest.raises(BadCheckpoint, match="not what the bundle was made of"):
        peers.subjects([bundle], fake(), checkpoint)


def test_precisions_share_a_place_and_other_weights_do_not(
    tiny_bundles: dict[str, Bundle], random_bundle: Bundle
) -> None:
    places = {weights.directory_for(bundle) for bundle in tiny_bundles.values()}
    assert len(places) == 1
    assert weights.directory_for(random_bundle) not in places


def test_gguf_holds_the_same_values(
    checkpoint: Path, tmp_path: Path, tiny_weights: LargerWeights, workers: None
) -> None:
    gguf = pytest.importorskip("gguf")
    import llamacpp  # type: ignore[import-not-found]

    llamacpp.convert(checkpoint, tmp_path / "model", "f32")
    reader = gguf.GGUFReader(tmp_path / "model")
    found = {tensor.name: tensor for tensor in reader.tensors}
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, TINY.n_layer)
    for variable in TINY.variables():
        name = weights.transformers_name(variable)
        stem, _, ending = name.rpartition(".")
        values = tiny_weights.read(variable)
        values = values[0].T if values.ndim == 3 else values
        tensor = found.pop(f"{known.get_name(stem)}.{ending}")
        np.testing.assert_array_equal(tensor.data, values)
    assert not found
    fields = reader.fields
    assert fields["gpt2.attention.head_count"].contents() == TINY.n_head
    assert fields["gpt2.feed_forward_length"].contents() == TINY.inner_width
    assert len(fields["tokenizer.ggml.tokens"].contents()) == TINY.n_vocab


def test_every_matching_precision_gets_a_worker(
    random_bundle: Bundle, fake: Callable[..., Path]
) -> None:
    python = fake()
    found, left_out = peers.subjects([random_bundle, random_bundle], python)
    assert [s.name for s in found] == ["llama.cpp q8_0", "CTranslate2 int8", "OpenVINO int8"]
    assert left_out == ["PyTorch: no int8"]
    command = found[0].worker(threads=2)
    assert command[:4] == [str(python), str(WORKERS / "run.py"), "llamacpp", "serve"]
    assert Path(command[4]).exists()
    assert command[5:] == ["q8_0", "2"]


def test_what_is_not_installed_is_left_out_by_name(
    random_bundle: Bundle, fake: Callable[..., Path]
) -> None:
    found, left_out = peers.subjects([random_bundle], fake("llama_cpp", "torch"))
    assert found == []
    assert left_out[0].startswith("llama.cpp: llama_cpp not installed")
    assert left_out[1].startswith("CTranslate2: torch not installed")


def test_a_converter_that_fails_leaves_one_line_and_no_model(
    random_bundle: Bundle, fake: Callable[..., Path]
) -> None:
    python = fake(action="echo 'Traceback' >&2; echo 'ValueError: no' >&2; exit 1")
    found, left_out = peers.subjects([random_bundle], python)
    assert found == []
    assert left_out[0] == "llama.cpp: cannot convert (ValueError: no)"
    place = weights.directory_for(random_bundle)
    assert [path.name for path in place.iterdir()] == ["checkpoint"]


def test_a_variant_is_for_those_that_run_it() -> None:
    relu = replace(TINY, activation="relu")
    able = [peer.name for peer in PEERS if not peer.cannot_run(relu)]
    assert able == ["PyTorch"]
    assert PEERS[0].cannot_run(relu) == "no GPT-2 with activation relu"
    assert not any(peer.cannot_run(replace(TINY, tied=False, n_inner=7)) for peer in PEERS)


def test_a_python_that_is_none_is_one_clear_error(random_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--make-peers"):
        peers.subjects([random_bundle], tmp_path / "nowhere")


def test_the_probe_names_what_is_missing() -> None:
    python = Path(sys.executable)
    assert environment.missing(python, ["json", "no_such_module"]) == {"no_such_module"}


def test_an_environment_is_not_made_where_other_things_are(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(InvalidSetting, match="choose a new directory"):
        environment.make(tmp_path)


def test_peers_that_cannot_be_installed_are_named(tmp_path: Path) -> None:
    python = environment.python_of(tmp_path / "env")
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$*" in *llama*) echo "ERROR: no compiler" >&2; exit 1;; esac\n'
    )
    python.chmod(0o755)
    stages: list[str] = []
    with pytest.raises(Gpt2rtError, match=r"^llama-cpp-python.*\(ERROR: no compiler\)$"):
        environment.make(tmp_path / "env", stages.append)
    assert stages == [f"Install {requirement}" for requirement in environment.REQUIREMENTS]


def test_the_extra_is_what_the_environment_gets() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["peers"] == list(environment.REQUIREMENTS)


# ---- the command


SERVE = """
  echo '{"ready": {"provider": "cpu", "precision": "own", "versions": {}}}'
  while read line; do
    echo '{"prefill_ms": 1, "step_ms": [1.0], "tokens": [[1, 2]]}'
  done
"""


@pytest.mark.slow
def test_the_bench_shows_peers_beside_ours(
    random_bundle: Bundle, fake: Callable[..., Path], command: Command
) -> None:
    python = fake("openvino", action=f'if [ "$3" = serve ]; then {SERVE} else touch "$5"; fi')
    options = ("--steps", "2", "--rounds", "1", "--prompt", "4", "--peers", "--json")
    ended = command("bench", random_bundle.directory, *options, "--peers-python", python)
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["library"] for line in lines] == ["gpt2rt", "llama.cpp q8_0", "CTranslate2 int8"]
    assert lines[0]["agreement"] is None
    assert 0 <= lines[1]["agreement"] <= 1
    assert "left out: OpenVINO: openvino not installed" in ended.err


@pytest.mark.slow
def test_the_bench_measures_start_up(random_bundle: Bundle, command: Command) -> None:
    options = ("--start-up", "--rounds", "1", "--prompt", "8", "--json")
    ended = command("bench", random_bundle.directory, *options)
    assert ended.code == 0, ended.err
    (line,) = map(json.loads, ended.out.splitlines())
    assert len(line["seconds"]) == 1


def test_the_bench_needs_a_model(command: Command) -> None:
    ended = command("bench")
    assert (ended.code, "at least one model" in ended.err) == (2, True)


# ---- PyTorch on CUDA, whose module also runs on a processor


def greedy(checkpoint: Path, prompts: list[list[int]], steps: int) -> list[list[int]]:
    """Greedy tokens by Transformers."""
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    settings = {"do_sample": False, "min_new_tokens": steps, "max_new_tokens": steps}
    tokens = torch.tensor(prompts)
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)
    return found[:, tokens.shape[1] :].tolist()  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_the_module_for_cuda_is_gpt2(tmp_path: Path, bundle: Bundle, tied: bool) -> None:
    """Its greedy tokens are those of Transformers, whatever batch was before, in each bucket."""
    for name in ("torch", "transformers", "safetensors"):
        pytest.importorskip(name)
    shape = replace(TINY, n_ctx=600, tied=tied)
    place = tmp_path / "checkpoint"
    weights.write_checkpoint(bundle, LargerWeights(shape, seed=3), place)
    peer = PeerSubject("PyTorch", "pytorch_cuda", bundle, "float32", Path(sys.executable), place)
    random = np.random.default_rng(0)
    with Subject(peer.name, [*peer.worker(1), "device=cpu", "compile="]) as subject:
        for count, length in ((1, 5), (3, 7), (1, 3), (3, 250), (1, 508)):
            prompts = random.integers(0, shape.n_vocab, (count, length)).tolist()
            assert subject.ask(prompts, 12).tokens == greedy(place, prompts, 12)


def test_peers_are_measured_where_they_compute(
    random_bundle: Bundle, tiny_bundles: dict[str, Bundle], fake: Callable[..., Path]
) -> None:
    half = Bundle.open(tiny_bundles["fp16"].directory)
    half = replace(half, manifest=replace(half.manifest, origin="random weights, seed 3"))
    found, left_out = peers.subjects([random_bundle, half], fake(), providers={"cuda"})
    assert [(s.name, s.provider) for s in found] == [("PyTorch, compiled float16", "cuda")]
    assert left_out == ["PyTorch, compiled: no int8"]
    ours = {
        Configuration("m", asked, 1): runs for asked, runs in (("cpu", "cpu"), ("auto", "cuda"))
    }
    cases = [Case(own, 4, 1, 2) for own in ours]
    others = [Configuration("m", where, 1, where) for where in ("cpu", "cuda")]
    every = with_others(cases, others, ours)
    assert [case.configuration.library for case in every] == ["gpt2rt", "cpu", "gpt2rt", "cuda"]
