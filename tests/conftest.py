"""Small models for the tests, each made once a run and without TensorFlow where it can be."""

from __future__ import annotations

import io
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from command_line import Command, Edit, Ended
from gpt2rt import GPT2, HParams, catalog
from gpt2rt.bundle import MANIFEST, Bundle, Manifest, record
from gpt2rt.cli import main
from gpt2rt.precision import PRECISIONS
from gpt2rt_export import targets
from gpt2rt_export.sources import Checkpoint, RandomCheckpoint
from gpt2rt_export.vocabulary import synthetic_vocabulary, write_vocabulary

# Tests send Ctrl-C to children, who would inherit that a shell's background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = HParams(n_vocab=300, n_ctx=48, n_embd=32, n_head=4, n_layer=3)
# Largest difference from the oracle of the tiny model's logits (deviation 0.69), about twice
# what was seen. Hidden states (deviation 1 to 5) and log-probabilities stay within, too.
NOISE = {"fp32": 2e-5, "fp16": 4e-3, "int8": 0.25, "int4": 1.2}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class LargerWeights:
    """Random weights so large that attention and GELU leave their linear range."""

    hparams: HParams
    seed: int
    factor: float = 6.0
    origin: str = "test"
    tokenizer: None = None
    files: tuple[()] = ()
    unused: tuple[()] = ()
    notes: tuple[()] = ()

    @property
    def identity(self) -> str:
        return f"test weights {self.seed}"

    def read(self, name: str) -> NDArray[np.float32]:
        values = RandomCheckpoint(self.hparams, self.seed).read(name)
        return values if name.endswith("/g") else values * np.float32(self.factor)


def skeleton(hparams: HParams) -> onnx.ModelProto:
    """What `fuse` keeps of a converted graph: the residual additions between named cuts."""
    nodes, x = [], "embed"
    names = ["embed", "ln_f"]
    for i in range(hparams.n_layer):
        for part in ("attn", "mlp"):
            ends = [f"{scope}/out:0" for scope in (x, f"h{i}/{part}/c_proj", f"h{i}/{part}")]
            nodes.append(helper.make_node("Add", ends[:2], ends[2:]))
            x = f"h{i}/{part}"
        parts = ("ln_1", "attn/c_attn", "attend", "attn/c_proj", "ln_2", "gelu", "mlp/c_proj")
        names += [f"h{i}/{part}" for part in parts]
    nodes += [helper.make_node("Identity", ["none"], [f"{name}/out:0"]) for name in names]
    graph = helper.make_graph(nodes, "skeleton", [], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def make_bundle(
    directory: Path, checkpoint: Checkpoint, precision: str, origin: str = "test"
) -> Bundle:
    """A fused bundle, written without TensorFlow."""
    hparams = checkpoint.hparams
    directory.mkdir(parents=True)
    write_vocabulary(directory, *synthetic_vocabulary(hparams.n_vocab))
    models, weights = targets.fused(skeleton(hparams), hparams, precision)
    targets.write(models, weights, checkpoint, directory)
    files = {path.name: record(path) for path in sorted(directory.iterdir())}
    manifest = Manifest("tiny", precision, "fused", hparams, "synthetic", origin, {}, files)
    (directory / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(directory)


@pytest.fixture(scope="session")
def tiny_weights() -> LargerWeights:
    return LargerWeights(TINY, seed=7)


@pytest.fixture(scope="session")
def tiny_bundles(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: LargerWeights
) -> dict[str, Bundle]:
    """The tiny model in every precision."""
    home = tmp_path_factory.mktemp("tiny")
    return {name: make_bundle(home / name, tiny_weights, name) for name in PRECISIONS}


@pytest.fixture(scope="session")
def tiny_models(tiny_bundles: dict[str, Bundle]) -> dict[str, GPT2]:
    return {name: GPT2.load(bundle.directory, threads=1) for name, bundle in tiny_bundles.items()}


@pytest.fixture(params=sorted(PRECISIONS))
def tiny(request: pytest.FixtureRequest, tiny_models: dict[str, GPT2]) -> GPT2:
    """The tiny model, in one precision after the other."""
    return tiny_models[request.param]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with nothing in it."""
    monkeypatch.setenv("GPT2RT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GPT2RT_MODEL", raising=False)
    return tmp_path / "home"


@pytest.fixture
def edit_manifest() -> Callable[..., None]:
    """Rewrites fields of a bundle's manifest, with a digest that fits."""

    def edit(bundle: Bundle, **changes: object) -> None:
        text = replace(bundle.manifest, **changes).to_json()  # type: ignore[arg-type]
        (bundle.directory / MANIFEST).write_text(text)

    return edit


@pytest.fixture(scope="session")
def real_vocabulary() -> Path:
    directory = SHARED / "gpt2-vocab"
    if not (directory / "encoder.json").is_file():
        pytest.skip(f"{directory / 'encoder.json'} is not there")
    return directory


# ---- the command line


@pytest.fixture
def command(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Command:
    """Runs the command line in this process, with nothing exported and no demo."""
    monkeypatch.setattr(catalog, "demo_bundle", lambda: home / "embedded")
    monkeypatch.setattr("gpt2rt.providers.physical_cores", lambda: 1)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["gpt2rt", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsysbinary.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Ended(code, out.decode(), err.decode())

    return run


@pytest.fixture
def model(tiny_bundles: dict[str, Bundle]) -> Path:
    return tiny_bundles["int8"].directory


@pytest.fixture
def bundle(model: Path, tmp_path: Path) -> Bundle:
    """A bundle of the test's own, to be damaged."""
    shutil.copytree(model, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def exported(home: Path, model: Path, edit_manifest: Edit) -> Callable[[str], Bundle]:
    """Puts the tiny bundle under a released model's name into the home directory."""

    def install(name: str) -> Bundle:
        place = home / "bundles" / f"{name}-int8"
        shutil.copytree(model, place)
        edit_manifest(Bundle.open(place), model=name)
        return Bundle.open(place)

    return install
