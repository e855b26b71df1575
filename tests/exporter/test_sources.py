"""Checkpoints as OpenAI wrote them: read bit for bit, or refused with the reason."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from checkpoints import save_openai
from gpt2rt import HParams
from gpt2rt.bundles import catalog
from gpt2rt.errors import BadCheckpoint
from gpt2rt_export.onnx_graph.formats import STORAGE
from gpt2rt_export.onnx_graph.fuse import fuse
from gpt2rt_export.onnx_graph.weights import attach
from gpt2rt_export.sources import OpenAICheckpoint, RandomCheckpoint, openai
from models import SHARED, LargerWeights, skeleton

SHAPE = HParams(n_vocab=300, n_ctx=8, n_embd=8, n_head=2, n_layer=2)
WEIGHTS = LargerWeights(SHAPE, seed=3)
VALUES = {name: WEIGHTS.read(name) for name in SHAPE.variables()}

DATA = "model.ckpt.data-00000-of-00001"
INDEX = "model.ckpt.index"

Values = Mapping[str, NDArray[Any]]
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def save() -> Write:
    """Writes variables with TensorFlow 1's Saver, as OpenAI did, and the files beside them."""
    pytest.importorskip("tensorflow")

    def save(folder: Path, values: Values, name: str = "model.ckpt", **options: object) -> Path:
        return save_openai(folder, values, SHAPE, name, **options)

    return save


@pytest.fixture(scope="session")
def published(save: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "model", VALUES)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A checkpoint of the test's own, to be damaged."""
    return Path(shutil.copytree(published, tmp_path / "model"))


def read_all(folder: Path) -> dict[str, NDArray[np.float32]]:
    checkpoint = OpenAICheckpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.hparams.variables()}


def assert_reads(folder: Path, wanted: Values = VALUES) -> None:
    found = read_all(folder)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        assert found[name].tobytes() == value.tobytes(), name


def refusal(folder: Path) -> str:
    with pytest.raises(BadCheckpoint) as caught:
        OpenAICheckpoint(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_hparams(folder: Path, **changes: object) -> None:
    values = {**SHAPE.as_dict(), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "hparams.json").write_text(json.dumps(kept))


# ---- whole checkpoints


def test_a_checkpoint_reads_back_bit_for_bit(published: Path) -> None:
    assert sorted(path.name for path in published.iterdir()) == sorted(catalog.CHECKPOINT_FILES)
    assert_reads(published)


def test_a_checkpoint_is_known_by_its_weights_and_not_by_its_place(
    published: Path, folder: Path, save: Write, tmp_path: Path
) -> None:
    here, there = OpenAICheckpoint(published), OpenAICheckpoint(folder)
    assert here.identity == there.identity
    assert here.origin != there.origin
    other = {**VALUES, "model/ln_f/b": VALUES["model/ln_f/b"] + np.float32(1)}
    assert OpenAICheckpoint(save(tmp_path / "other", other)).identity != here.identity


@pytest.mark.parametrize(
    "path",
    ["/home/someone/models/117M/model.ckpt", r"C:\\Users\\someone\\model.ckpt", "./model.ckpt"],
)
def test_a_path_from_another_machine_does_not_matter(folder: Path, path: str) -> None:
    state = f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "{path}"\n'
    (folder / "checkpoint").write_text(state)
    assert_reads(folder)


def test_a_checkpoint_under_the_usual_name_needs_no_state_file(folder: Path) -> None:
    (folder / "checkpoint").unlink()
    assert_reads(folder)


def test_a_fine_tune_is_read_under_the_name_that_training_gave_it(
    save: Write, tmp_path: Path
) -> None:
    """The last checkpoint counts where training kept several; the optimiser's variables do not."""
    older = {name: np.zeros_like(value) for name, value in VALUES.items()}
    save(tmp_path / "older", older, "model", global_step=900)
    extra = {
        "model/wte/Adam": np.ones_like(VALUES["model/wte"]),
        "model/h0/mlp/c_fc/w/Adam_1": np.ones_like(VALUES["model/h0/mlp/c_fc/w"]),
        "beta1_power": np.float32(0.9),
        "global_step": np.int64(1000),
        "note": np.array(""),
    }
    folder = save(tmp_path / "run", {**VALUES, **extra}, "model", global_step=1000)
    for path in (tmp_path / "older").glob("model-900.*"):
        shutil.copy(path, folder)
    assert (folder / "model-1000.index").is_file()
    assert_reads(folder)


def test_more_numbers_in_hparams_do_not_matter(folder: Path) -> None:
    change_hparams(folder, res_dropout=0.1, note="fine-tuned")
    assert_reads(folder)


def test_a_tokenizer_from_elsewhere_makes_the_checkpoints_own_needless(folder: Path) -> None:
    (folder / "encoder.json").unlink()
    (folder / "vocab.bpe").unlink()
    assert "encoder.json, vocab.bpe missing" in refusal(folder)
    assert OpenAICheckpoint(folder, with_tokenizer=False).hparams == SHAPE


# ---- files missing


def test_no_such_directory(tmp_path: Path) -> None:
    assert "no such directory; name one with `--checkpoint DIR`" in refusal(tmp_path / "none")
    (tmp_path / "file").touch()
    assert "no such directory" in refusal(tmp_path / "file")


def test_missing_files_are_named_all_at_once(folder: Path, tmp_path: Path) -> None:
    wanted = set(catalog.CHECKPOINT_FILES) - {"model.ckpt.meta"}  # TensorFlow's graph: never read
    (tmp_path / "empty").mkdir()
    found = refusal(tmp_path / "empty").split(" missing")[0]
    assert set(found.split(": ")[1].split(", ")) == wanted
    for name in (INDEX, "vocab.bpe"):
        (folder / name).unlink()
    assert f"vocab.bpe, {INDEX} missing" in refusal(folder)


@pytest.mark.parametrize("name", ["hparams.json", "encoder.json", "vocab.bpe", INDEX, DATA])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name} missing" in refusal(folder)


def test_the_file_that_the_state_file_names_is_missed(folder: Path) -> None:
    (folder / "checkpoint").write_text('model_checkpoint_path: "model-77"\n')
    assert "model-77.index, model-77.data-00000-of-00001 missing" in refusal(folder)


@pytest.mark.parametrize("text", ["", "rubbish", "model_checkpoint_path: model.ckpt", "\udcff"])
def test_a_state_file_that_names_nothing_is_refused(folder: Path, text: str) -> None:
    (folder / "checkpoint").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "names no model_checkpoint_path" in refusal(folder)


# ---- hparams.json and the variables at odds


@pytest.mark.parametrize("content", [b"", b"{", b"n_ctx = 8", b"\xff\xfe"])
def test_hparams_that_are_no_json(folder: Path, content: bytes) -> None:
    (folder / "hparams.json").write_bytes(content)
    assert "hparams.json: cannot be read as JSON" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"n_head": None, "n_ctx": None}, "n_ctx, n_head missing"),
        ({"n_head": 3}, "n_embd 8 cannot be divided among n_head 3"),
        ({"n_ctx": "8"}, "n_ctx must be a positive whole number, not '8'"),
        ({"n_embd": 8.0}, "n_embd must be a positive whole number, not 8.0"),
        ({"n_layer": True}, "n_layer must be a positive whole number, not True"),
        ({"n_layer": 0}, "n_layer must be a positive whole number, not 0"),
        ({"n_vocab": -300}, "n_vocab must be a positive whole number, not -300"),
        ({"n_vocab": [300]}, "n_vocab must be a positive whole number"),
    ],
)
def test_hparams_that_describe_no_gpt2(folder: Path, changes: dict[str, Any], fact: str) -> None:
    change_hparams(folder, **changes)
    message = refusal(folder)
    assert "hparams.json: " in message
    assert fact in message


def test_hparams_that_are_no_object(folder: Path) -> None:
    (folder / "hparams.json").write_text("[8, 8]")
    assert "holds list, not an object" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"n_ctx": 16}, r"says: model/wpe is \[8, 8\], not \[16, 8\]$"),
        ({"n_vocab": 301}, r"says: model/wte is \[300, 8\], not \[301, 8\]$"),
        ({"n_layer": 1}, "says: blocks up to h1 where n_layer is 1$"),
        ({"n_layer": 3}, "says: blocks up to h1 where n_layer is 3$"),
        ({"n_layer": 10**12}, "says: blocks up to h1 where n_layer is 1000000000000$"),
    ],
)
def test_hparams_that_contradict_the_variables(
    folder: Path, changes: dict[str, int], fact: str
) -> None:
    change_hparams(folder, **changes)
    assert re.search(fact, refusal(folder))


def test_every_variable_of_another_width_is_named(folder: Path) -> None:
    change_hparams(folder, n_embd=16)
    message = refusal(folder)
    shapes = replace(SHAPE, n_embd=16).variables()
    for name, shape in shapes.items():
        assert f"{name} is {list(VALUES[name].shape)}, not {list(shape)}" in message


def test_variables_missing_and_misshapen_are_named_all_at_once(save: Write, tmp_path: Path) -> None:
    lost = {"model/wpe", "model/h0/attn/c_attn/b", "model/h1/ln_2/g", "model/ln_f/b"}
    values = {name: value for name, value in VALUES.items() if name not in lost}
    values["model/h0/mlp/c_fc/w"] = values["model/h0/mlp/c_fc/w"][0]  # OpenAI's are [1, in, out]
    values["model/wte"] = values["model/wte"].T
    message = refusal(save(tmp_path / "model", values))
    facts = {f"{name} missing" for name in lost}
    facts |= {"model/h0/mlp/c_fc/w is [8, 32], not [1, 8, 32]"}
    facts |= {"model/wte is [8, 300], not [300, 8]"}
    assert set(message.split("says: ")[1].split("; ")) == facts


def test_a_checkpoint_of_something_else_lacks_every_variable(save: Write, tmp_path: Path) -> None:
    message = refusal(save(tmp_path / "model", {"dense/kernel": np.zeros((2, 2), np.float32)}))
    assert "model/wte missing" in message


# ---- damage


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9999])
def test_a_data_file_cut_short_is_found_before_any_work(folder: Path, part: float) -> None:
    data = (folder / DATA).read_bytes()
    kept = int(len(data) * part)
    (folder / DATA).write_bytes(data[:kept])
    message = refusal(folder)
    assert f"{DATA}: {kept} bytes, but the index promises {len(data)}" in message
    assert "cut short" in message


@pytest.mark.parametrize(
    "name", ["model/wte", "model/wpe", "model/h0/attn/c_attn/w", "model/h1/ln_1/g", "model/ln_f/b"]
)
def test_a_flipped_bit_of_a_variable_is_found_and_the_variable_named(
    folder: Path, name: str
) -> None:
    data = bytearray((folder / DATA).read_bytes())
    at = data.find(VALUES[name].tobytes())
    assert at >= 0
    for position in (at, at + VALUES[name].nbytes - 1):
        damaged = bytearray(data)
        damaged[position] ^= 1
        (folder / DATA).write_bytes(damaged)
        checkpoint = OpenAICheckpoint(folder)
        with pytest.raises(BadCheckpoint, match=f"variable {name} cannot be read .*damaged"):
            checkpoint.read(name)
        for other in VALUES.keys() - {name}:
            np.testing.assert_array_equal(checkpoint.read(other), VALUES[other])


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_of_the_index_is_refused_or_harmless(folder: Path, seed: int) -> None:
    index = (folder / INDEX).read_bytes()
    random = np.random.default_rng(seed)
    # The footer at the end holds places and padding without a checksum: a third of the tries there.
    places = [*random.integers(0, len(index), 8), *random.integers(len(index) - 48, len(index), 4)]
    for position in places:
        damaged = bytearray(index)
        damaged[position] ^= 1 << random.integers(8)
        (folder / INDEX).write_bytes(damaged)
        with suppress(BadCheckpoint):
            assert_reads(folder)


def test_an_index_cut_short_is_refused(folder: Path) -> None:
    index = (folder / INDEX).read_bytes()
    for kept in (0, 1, 47, 48, len(index) // 2, len(index) - 1):
        (folder / INDEX).write_bytes(index[:kept])
        assert f"{INDEX}: cannot be read" in refusal(folder)


def test_files_of_two_checkpoints_do_not_pass_for_one(
    folder: Path, save: Write, tmp_path: Path
) -> None:
    other = save(tmp_path / "other", {name: value * 2 for name, value in VALUES.items()})
    shutil.copy(other / DATA, folder / DATA)
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        read_all(folder)


def test_weights_that_are_not_finite_are_refused_by_name(save: Write, tmp_path: Path) -> None:
    spoilt = {name: value.copy() for name, value in VALUES.items()}
    spoilt["model/wte"][299, 7] = np.nan
    spoilt["model/h1/mlp/c_proj/w"][0, 0, 0] = np.inf
    spoilt["model/ln_f/b"][3] = -np.inf
    checkpoint = OpenAICheckpoint(save(tmp_path / "model", spoilt))
    for storage in STORAGE.values():
        model, weights = fuse(skeleton(SHAPE), SHAPE, storage, "float16")
        with pytest.raises(BadCheckpoint) as caught, np.errstate(invalid="ignore"):
            attach([model], weights, checkpoint, tmp_path / "weights.bin")
        names = "model/h1/mlp/c_proj/w, model/ln_f/b, model/wte"
        assert f"{tmp_path / 'model'}: NaN or infinity in {names};" in str(caught.value)


def test_a_checkpoint_attaches_whole(published: Path, tmp_path: Path) -> None:
    """Every variable is asked for, and the bytes that progress is told of are those of all."""
    told: list[int] = []
    model, weights = fuse(skeleton(SHAPE), SHAPE, STORAGE["fp32"], "float32")
    path = tmp_path / "weights.bin"
    attach([model], weights, OpenAICheckpoint(published), path, told.append)
    assert {weight.source for weight in weights} == set(SHAPE.variables())
    onnx.save(model, tmp_path / "model.onnx")
    data = path.read_bytes()
    assert VALUES["model/wte"].tobytes() in data
    assert VALUES["model/h1/mlp/c_proj/w"][0].T.tobytes() in data, "stored by the output"
    assert VALUES["model/ln_f/b"].tobytes() in data
    assert sum(told) == sum(value.nbytes for value in VALUES.values())


# ---- random weights


def test_random_weights_are_a_function_of_seed_and_name() -> None:
    larger = replace(SHAPE, n_layer=3)
    for name, shape in SHAPE.variables().items():
        values = RandomCheckpoint(SHAPE, 5).read(name)
        assert values.shape == shape
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, RandomCheckpoint(larger, 5).read(name))
        assert not np.array_equal(values, RandomCheckpoint(SHAPE, 6).read(name))
    assert RandomCheckpoint(SHAPE, 5).identity != RandomCheckpoint(SHAPE, 6).identity


# ---- the real thing


@pytest.fixture
def real() -> Path:
    index = SHARED / "gpt2-117M-meta" / INDEX
    if not index.is_file():
        pytest.skip(f"{index} is not there")
    pytest.importorskip("tensorflow")
    return index.parent


def test_the_real_117m_has_the_variables_that_its_hparams_promise(real: Path) -> None:
    release = catalog.release("117M")
    assert release is not None
    assert HParams.read(real / "hparams.json") == release.hparams
    _, found = openai.open_reader(real / "model.ckpt")
    assert {name: shape for name, (shape, _) in found.items()} == release.hparams.variables()
    assert {size for _, size in found.values()} == {4}
    assert sum(4 * int(np.prod(shape)) for shape, _ in found.values()) == release.data_bytes


def test_a_data_file_of_the_right_size_is_not_taken_for_the_real_weights(
    real: Path, tmp_path: Path
) -> None:
    for path in real.iterdir():
        shutil.copy(path, tmp_path)
    release = catalog.release("117M")
    assert release is not None
    (tmp_path / DATA).touch()
    os.truncate(tmp_path / DATA, release.data_bytes)  # a hole: takes no space
    checkpoint = OpenAICheckpoint(tmp_path, with_tokenizer=False)
    with pytest.raises(BadCheckpoint, match="variable model/h3/ln_1/g cannot be read"):
        checkpoint.read("model/h3/ln_1/g")
