"""Bundles on disk are refused if their files differ from the manifest."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from command_line import Edit
from gpt2rt import GPT2
from gpt2rt.bundles import library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import SPECIAL_TOKENS
from gpt2rt.bundles.files import file_size, record, sha256
from gpt2rt.bundles.manifest import EMBED, GRAPH, MANIFEST, PARITY, WEIGHTS, read_manifest
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.errors import BadBundle
from gpt2rt.scoring.scoring import Passage
from gpt2rt.text.special_tokens import SpecialTokens
from models import BUNDLE_FILES, TINY


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", BUNDLE_FILES)
def test_open_finds_a_file_that_is_gone(bundle: Bundle, name: str) -> None:
    (bundle.directory / name).unlink()
    with pytest.raises(BadBundle, match=f"{name}: No such file"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("name", BUNDLE_FILES)
@pytest.mark.parametrize("change", [-1, 1])
def test_open_finds_a_file_of_another_size(bundle: Bundle, name: str, change: int) -> None:
    path = bundle.directory / name
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"\0")
    with pytest.raises(BadBundle, match=f"{name}: {len(data) + change} bytes, not the {len(data)}"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("name", BUNDLE_FILES)
@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_flipped_byte_is_named_and_nothing_is_loaded(
    bundle: Bundle, name: str, position: int
) -> None:
    flip(bundle.directory / name, position)
    for load in (bundle.check, lambda: GPT2.load(bundle.directory)):
        with pytest.raises(BadBundle, match=f"{name}: sha256 .* --force"):
            load()
    bundle.check(other for other in BUNDLE_FILES if other != name)


def test_a_whole_bundle_passes_its_check(tiny_bundles: dict[str, Bundle]) -> None:
    for bundle in tiny_bundles.values():
        bundle.check()
        for name, wanted in bundle.manifest.files.items():
            assert record(bundle.directory / name) == wanted


def test_a_graph_of_an_unknown_kind_is_refused(bundle: Bundle, edit_manifest: Edit) -> None:
    edit_manifest(bundle, graph="newer")
    with pytest.raises(BadBundle, match="unknown graph 'newer'"):
        GPT2.load(bundle.directory)


def test_parity_is_what_was_written_or_nothing(bundle: Bundle, edit_manifest: Edit) -> None:
    assert bundle.parity() == {}
    path = bundle.directory / PARITY
    path.write_text('{"tokens": 48}')
    edit_manifest(bundle, files={**bundle.manifest.files, PARITY: record(path)})
    assert Bundle.open(bundle.directory).parity() == {"tokens": 48}
    path.write_text('{"tokens": 47}')
    with pytest.raises(BadBundle, match=r"parity\.json: sha256"):
        Bundle.open(bundle.directory).parity()
    for nonsense in (
        "none",
        "[1]",
        "[" * 100_000,
        '{"uncached": 3}',
        '{"uncached": {"top1": "x"}}',
    ):
        path.write_text(nonsense)
        edit_manifest(bundle, files={**bundle.manifest.files, PARITY: record(path)})
        with pytest.raises(BadBundle, match=r"parity\.json: no report of an export"):
            Bundle.open(bundle.directory).parity()


@pytest.mark.parametrize(
    "change", [{"n_layer": 2}, {"n_layer": 4}, {"n_head": 2}, {"n_embd": 64, "n_head": 8}]
)
def test_hparams_that_are_not_the_graphs_are_refused(
    bundle: Bundle, edit_manifest: Edit, change: dict[str, Any]
) -> None:
    edit_manifest(bundle, hparams=replace(TINY, **change))
    with pytest.raises(BadBundle, match=r"model\.onnx: not the graph of the manifest's hparams"):
        GPT2.load(bundle.directory)


def test_a_tokenizer_of_more_ids_than_there_is_memory_is_refused(
    bundle: Bundle, edit_manifest: Edit
) -> None:
    path = bundle.directory / SPECIAL_TOKENS
    path.write_text(SpecialTokens(10**12, 0, 0, ()).to_json())
    edit_manifest(bundle, files={**bundle.manifest.files, path.name: record(path)})
    with pytest.raises(BadBundle, match="the tokenizer has 1000000000000 ids, the model 300"):
        GPT2.load(bundle.directory)


def test_a_graph_of_hidden_states_with_other_layers_is_refused(
    bundle: Bundle, edit_manifest: Edit
) -> None:
    shutil.copy(bundle.directory / GRAPH, bundle.directory / EMBED)
    files = {**bundle.manifest.files, EMBED: record(bundle.directory / EMBED)}
    edit_manifest(bundle, files=files)
    with pytest.raises(BadBundle, match=r"embed\.onnx: not the graph of the manifest's hparams"):
        GPT2.load(bundle.directory).embed("x")


def test_a_graph_that_cannot_be_run_is_one_clear_error(bundle: Bundle, edit_manifest: Edit) -> None:
    edit_manifest(bundle, hparams=replace(TINY, n_ctx=TINY.n_ctx + 1))
    with pytest.raises(BadBundle, match="ONNX Runtime cannot run the graph") as caught:
        list(GPT2.load(bundle.directory).score_tokens([Passage((1,) * (TINY.n_ctx + 2))]))
    assert "\n" not in str(caught.value)


def test_a_way_out_can_be_typed_as_it_stands(bundle: Bundle, edit_manifest: Edit) -> None:
    place = bundle.directory.rename(bundle.directory.with_name("it's a bundle"))
    edit_manifest(Bundle(place, bundle.manifest), model="117M")
    (place / WEIGHTS).write_bytes(b"")
    with pytest.raises(BadBundle) as caught:
        Bundle.open(place)
    command = shlex.split(str(caught.value).split("`")[1])
    wanted = ["gpt2rt", "export", "117M", "--int8", "--output", str(place), "--force"]
    assert command == wanted


@pytest.mark.parametrize("name", [GRAPH, EMBED])
@pytest.mark.parametrize(
    "place",
    ["../secret", "/dev/zero", "link", "weights.bin\0", "./weights.bin", "manifest.json", ""],
)
def test_a_graph_reads_no_file_but_the_bundles_own(
    bundle: Bundle,
    edit_manifest: Edit,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    place: str,
) -> None:
    """Before ONNX Runtime opens the graph, and even if its record in the manifest is right."""
    monkeypatch.setattr("gpt2rt.engine.runtime.open_session", None)
    shutil.copy(bundle.directory / WEIGHTS, bundle.directory.parent / "secret")
    (bundle.directory / "link").symlink_to(bundle.directory.parent / "secret")
    path = bundle.directory / name
    path.write_bytes(outside(path.read_bytes(), place))
    edit_manifest(bundle, files={**bundle.manifest.files, name: record(path)})
    with pytest.raises(BadBundle, match=r"\.onnx: takes weights from '.*', no file of this bundle"):
        GPT2.load(bundle.directory)


def outside(graph: bytes, place: str) -> bytes:
    """The graph with its weights in another file."""
    model = onnx.load_model_from_string(graph)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    return bytes(model.SerializeToString())


def test_the_graph_has_the_tensors_of_the_contract(tiny: GPT2) -> None:
    found = tiny.runtime.session
    whole = {"tokens", "slots", "positions", "rows"}
    kv = {"float16": "tensor(float16)", "float32": "tensor(float)"}[tiny.bundle.manifest.kv]
    layers = range(TINY.n_layer)
    pasts, presents = (
        {f"{when}_{what}.{i}" for i in layers for what in ("key", "value")}
        for when in ("past", "present")
    )
    assert {value.name for value in found.get_inputs()} == whole | pasts
    assert {value.name for value in found.get_outputs()} == {"logits"} | presents
    types = {value.name: value.type for value in (*found.get_inputs(), *found.get_outputs())}
    assert {name for name, type in types.items() if type == "tensor(int32)"} == whole
    assert types["logits"] == "tensor(float)"
    assert {types[name] for name in pasts | presents} == {kv}


def test_the_contract_names_every_graph_that_runs_and_can_be_exported() -> None:
    from gpt2rt_export.recipe import GRAPHS

    assert set(SLOTS) == set(GRAPHS)
    known = {kind.partition("-") for kind in library.EXPORTS}
    assert {precision for precision, _, _ in known} == set(PRECISIONS)
    assert {graph or "fused" for _, _, graph in known} == set(GRAPHS)


def test_a_device_or_pipe_in_a_bundle_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to(os.devnull)
    for name in ("pipe", "zero"):
        for read in (sha256, file_size, read_manifest):
            with pytest.raises(BadBundle, match="no regular file"):
                read(tmp_path / name)


def test_no_more_is_hashed_than_a_file_should_have(tmp_path: Path) -> None:
    path = tmp_path / "grown"
    path.write_bytes(b"1234567")
    assert sha256(path, 7) == sha256(path) == hashlib.sha256(b"1234567").hexdigest()
    with pytest.raises(BadBundle, match="more than the 6 bytes of the manifest"):
        sha256(path, 6)
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a terabyte of holes
    with pytest.raises(BadBundle, match="more than the 7 bytes of the manifest"):
        sha256(path, 7)


@pytest.mark.parametrize("name", [*BUNDLE_FILES, MANIFEST])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "directory"])
def test_no_file_of_a_bundle_may_be_anything_but_a_file(
    bundle: Bundle, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle.directory / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(bundle.directory)  # its path may have only about 100 bytes
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for use in (Bundle.open, GPT2.load):
        with pytest.raises(BadBundle, match=f"{name}: .*no regular file"):
            use(bundle.directory)
    with pytest.raises(BadBundle, match=f"{name}: no regular file"):
        sha256(path, 10)
