"""Bundles on disk: found by name, and refused if their files differ from the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from gpt2rt import GPT2
from gpt2rt.bundles import catalog, library
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.catalog import SPECIAL_TOKENS
from gpt2rt.bundles.files import file_size, record, sha256
from gpt2rt.bundles.library import Damaged
from gpt2rt.bundles.manifest import EMBED, GRAPH, MANIFEST, PARITY, WEIGHTS, noted, read_manifest
from gpt2rt.bundles.precision import PRECISIONS
from gpt2rt.engine.runtime import SLOTS
from gpt2rt.errors import BadBundle, UnknownModel
from gpt2rt.scoring.scoring import Passage
from gpt2rt.text.special_tokens import SpecialTokens
from models import TINY

FILES = ("model.onnx", EMBED, "weights.bin", "encoder.json", "vocab.bpe")

Edit = Callable[..., None]
Install = Callable[..., Bundle]


@pytest.fixture
def bundle(tiny_bundles: dict[str, Bundle], tmp_path: Path) -> Bundle:
    """A copy of a bundle, to be damaged."""
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundles["int8"].directory, copy)
    return Bundle.open(copy)


@pytest.fixture
def install(home: Path, tiny_bundles: dict[str, Bundle], edit_manifest: Edit) -> Install:
    """Puts a tiny bundle into the home directory, under a released model's name."""

    def install(model: str, precision: str, graph: str = "fused", folder: str = "") -> Bundle:
        suffix = "" if graph == "fused" else f"-{graph}"
        place = home / "bundles" / (folder or f"{model}-{precision}{suffix}")
        shutil.copytree(tiny_bundles[precision].directory, place)
        edit_manifest(Bundle.open(place), model=model, precision=precision, graph=graph)
        return Bundle.open(place)

    return install


@pytest.fixture
def no_demo(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the embedded demo, without one."""
    place = home / "embedded"
    monkeypatch.setattr(catalog, "demo_bundle", lambda: place)
    return place


def body_of(bundle: Bundle) -> dict[str, Any]:
    return dict(json.loads((bundle.directory / MANIFEST).read_text(encoding="utf-8")))


def write_body(bundle: Bundle, body: dict[str, Any]) -> None:
    """Write a manifest with a valid digest."""
    rest = {key: value for key, value in body.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (bundle.directory / MANIFEST).write_text(json.dumps({**rest, "digest": digest}))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# ---- the manifest


def test_a_manifest_reads_back_as_it_was_written(bundle: Bundle) -> None:
    (bundle.directory / MANIFEST).write_text(bundle.manifest.to_json())
    assert Bundle.open(bundle.directory) == bundle
    assert bundle.manifest.hparams == TINY
    assert set(bundle.manifest.files) == set(FILES)
    assert bundle.bytes == sum((bundle.directory / name).stat().st_size for name in FILES)


def test_order_and_white_space_of_a_manifest_say_nothing(bundle: Bundle) -> None:
    body = body_of(bundle)
    text = json.dumps(dict(reversed(body.items())), indent=7)
    (bundle.directory / MANIFEST).write_text(text)
    assert Bundle.open(bundle.directory) == bundle


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "345M"),
        ("precision", "fp32"),
        ("graph", "standard"),
        ("hparams", {**TINY.as_dict(), "n_head": 8}),
        ("tokenizer", "checkpoint"),
        ("origin", "elsewhere"),
        ("tools", {"onnx": "0"}),
        ("files", {}),
        ("digest", "0" * 64),
        ("digest", None),
        ("comment", "just a note"),
    ],
)
def test_an_edited_manifest_is_refused(bundle: Bundle, field: str, value: object) -> None:
    (bundle.directory / MANIFEST).write_text(json.dumps({**body_of(bundle), field: value}))
    with pytest.raises(BadBundle, match="edited or damaged"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"]
)
def test_a_manifest_that_is_no_json_is_refused(bundle: Bundle, content: bytes) -> None:
    (bundle.directory / MANIFEST).write_bytes(content)
    with pytest.raises(BadBundle, match=r"manifest\.json: cannot be read as JSON"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{}", '{"format": "other", "version": 1}'])
def test_json_that_is_no_manifest_is_refused(bundle: Bundle, content: str) -> None:
    (bundle.directory / MANIFEST).write_text(content)
    with pytest.raises(BadBundle, match="not the manifest of a gpt2rt bundle"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(3, "upgrade gpt2rt or export"), *((old, "export it again") for old in (1, "2", None))],
)
def test_another_format_version_is_refused(bundle: Bundle, version: object, remedy: str) -> None:
    write_body(bundle, {**body_of(bundle), "version": version})
    with pytest.raises(BadBundle, match=f"format {version!r}, this gpt2rt reads 2; {remedy}"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"hparams": {}},
        {"hparams": None},
        {"hparams": {**TINY.as_dict(), "n_head": 5}},
        {"hparams": {**TINY.as_dict(), "n_ctx": 4.5}},
        {"files": None},
        {"files": []},
        {"files": {GRAPH: 5}},
        {"files": {GRAPH: {"bytes": 5}}},
        {"hparams": {**TINY.as_dict(), "n_layer": 10**7}},
        {"hparams": {**TINY.as_dict(), "n_ctx": 10**12}},
        {"hparams": {**TINY.as_dict(), "n_vocab": 10**12}},
        {"model": "../../evil"},
        {"model": "a\nb"},
        {"model": "a" * 201},
        {"precision": ""},
        {"graph": "C:evil"},
        {"kv": "float64"},
        {"kv": None},
        {"origin": "\x1b]0;a terminal obeys\x07"},
        {"tools": {"onnx": {"version": 1}}},
    ],
)
def test_nonsense_with_a_fitting_digest_is_refused(bundle: Bundle, changes: dict[str, Any]) -> None:
    write_body(bundle, {**body_of(bundle), **changes})
    with pytest.raises(BadBundle):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("field", ["model", "hparams", "files", "tools", "graph"])
def test_a_manifest_names_the_field_that_it_lacks(bundle: Bundle, field: str) -> None:
    body = body_of(bundle)
    del body[field]
    write_body(bundle, body)
    with pytest.raises(BadBundle, match=f"missing or unknown: {field}"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("name", [name for name in FILES if name != EMBED])
def test_a_manifest_lists_every_file_that_a_bundle_needs(bundle: Bundle, name: str) -> None:
    body = body_of(bundle)
    del body["files"][name]
    write_body(bundle, body)
    with pytest.raises(BadBundle, match=f"lists no {name}"):
        Bundle.open(bundle.directory)


def test_a_manifest_names_no_file_elsewhere(bundle: Bundle) -> None:
    body = body_of(bundle)
    body["files"]["../bundle/model.onnx"] = body["files"][GRAPH]
    write_body(bundle, body)
    with pytest.raises(BadBundle, match=r"lists '\.\./bundle/model\.onnx', which is not the plain"):
        Bundle.open(bundle.directory)


# ---- the files


@pytest.mark.parametrize("name", FILES)
def test_open_finds_a_file_that_is_gone(bundle: Bundle, name: str) -> None:
    (bundle.directory / name).unlink()
    with pytest.raises(BadBundle, match=f"{name}: No such file"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [-1, 1])
def test_open_finds_a_file_of_another_size(bundle: Bundle, name: str, change: int) -> None:
    path = bundle.directory / name
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"\0")
    with pytest.raises(BadBundle, match=f"{name}: {len(data) + change} bytes, not the {len(data)}"):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, 100, -1])
def test_a_flipped_byte_is_named_and_nothing_is_loaded(
    bundle: Bundle, name: str, position: int
) -> None:
    flip(bundle.directory / name, position)
    for load in (bundle.check, lambda: GPT2.load(bundle.directory)):
        with pytest.raises(BadBundle, match=f"{name}: sha256 .* --force"):
            load()
    bundle.check(other for other in FILES if other != name)


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


# ---- the library


def test_a_bundle_is_found_by_every_name_of_its_model(install: Install) -> None:
    bundle = install("117M", "fp32")
    for name in ("117M", "124M", "117m", "117M-fp32", "124M-fp32", "124m-FP32"):
        assert library.find(name) == bundle
    assert library.find(bundle.directory) == bundle
    assert bundle.name == "117M-fp32"


def test_a_model_without_a_precision_is_its_int8_bundle(install: Install) -> None:
    bundles = {precision: install("345M", precision) for precision in ("fp32", "int8")}
    assert library.find("345M") == library.find("355M") == bundles["int8"]
    assert library.find("345M-fp32") == bundles["fp32"]


def test_a_standard_graph_is_asked_for_by_its_full_name(install: Install) -> None:
    bundle = install("762M", "fp32", "standard")
    assert bundle.name == "762M-fp32-standard"
    assert library.find("762M-fp32-standard") == library.find("774M-fp32-standard") == bundle
    with pytest.raises(UnknownModel, match="not exported yet"):
        library.find("762M")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("117M", "`gpt2rt export 117M --int8`"),
        ("124M-fp32", "`gpt2rt export 117M --fp32`"),
        ("1558M-int8", "`gpt2rt export 1542M --int8`"),
        ("345M-fp32-standard", "`gpt2rt export 345M --graph standard`"),
        ("117M-int2", "there can be 117M-int8, 117M-fp32, 117M-fp16, 117M-int4"),
        ("118M", "did you mean 117M?"),
        ("gpt2", "`gpt2rt export 117M --int8`"),
        ("gpt5", "or name a bundle's directory"),
        ("./nowhere", "no such directory"),
        ("", "unknown model ''"),
        ("x" * 1000, "unknown model"),
    ],
)
def test_a_name_without_a_bundle_says_what_to_do(home: Path, name: str, way_out: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        library.find(name)
    assert way_out in str(caught.value)


def test_a_directory_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match=r"no manifest\.json, so no bundle"):
        library.find(tmp_path)


def test_the_default_is_what_the_user_chose_else_117m_else_the_demo(
    install: Install,
    no_demo: Path,
    tiny_bundles: dict[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_bundles["int8"].directory, no_demo)
    assert library.is_embedded(library.default())
    assert library.default() == library.find("demo") == library.find("demo-int8")
    full = install("117M", "fp32")
    assert library.default() == full
    quick = install("117M", "int8")
    assert library.default() == quick
    other = install("1542M", "int8")
    monkeypatch.setenv("GPT2RT_MODEL", "1558M")
    assert library.default() == other
    monkeypatch.setenv("GPT2RT_MODEL", str(full.directory))
    assert library.default() == full
    assert not library.is_embedded(library.default())
    monkeypatch.setenv("GPT2RT_MODEL", "")
    assert library.default() == quick


def test_a_wrong_choice_in_the_environment_is_named(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("117M", "int8")
    monkeypatch.setenv("GPT2RT_MODEL", "762M")
    with pytest.raises(UnknownModel, match=r"\$GPT2RT_MODEL: 762M is not exported"):
        library.default()


def test_exported_lists_all_and_the_damaged_as_their_error(install: Install, no_demo: Path) -> None:
    good, bad = install("117M", "int8"), install("345M", "int8")
    install("762M", "int8", folder=".762M-int8.partial-x7")
    (bad.directory.parent / "no-bundle").mkdir()
    (bad.directory.parent / ".345M-int8.lock").touch()
    (bad.directory / WEIGHTS).unlink()
    first, second, demo = library.exported()
    assert first == good
    assert isinstance(second, Damaged)
    assert (second.name, second.directory) == ("345M-int8", bad.directory)
    assert str(bad.directory / WEIGHTS) in second.error
    assert isinstance(demo, Damaged)
    assert str(no_demo) in demo.error
    with pytest.raises(UnknownModel):
        library.find("762M")


def test_an_empty_home_holds_nothing_but_the_demo(
    home: Path, no_demo: Path, tiny_bundles: dict[str, Bundle]
) -> None:
    shutil.copytree(tiny_bundles["int8"].directory, no_demo)
    assert library.exported() == [Bundle.open(no_demo)]
    assert not (home / "bundles").exists()


def test_a_device_or_pipe_in_a_bundle_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to(os.devnull)
    for name in ("pipe", "zero"):
        for read in (sha256, file_size, read_manifest):
            with pytest.raises(BadBundle, match="no regular file"):
                read(tmp_path / name)


# ---- notes of the export


def test_notes_are_kept(bundle: Bundle, edit_manifest: Edit) -> None:
    before = bundle.digest
    edit_manifest(bundle, notes=("Leave out a: no part of the model",))
    found = Bundle.open(bundle.directory)
    assert found.manifest.notes == ("Leave out a: no part of the model",)
    assert found.digest != before
    edit_manifest(found, notes=())
    assert Bundle.open(bundle.directory).digest == before


@pytest.mark.parametrize(
    "notes", ["a", [1], ["\x1b[2J"], ["two\nlines"], ["x" * 1001], ["x"] * 65, {"a": "b"}, None]
)
def test_notes_of_another_kind_are_refused(
    bundle: Bundle, edit_manifest: Edit, notes: object
) -> None:
    edit_manifest(bundle, notes=notes or [None])
    with pytest.raises(BadBundle, match="not what it should be: 'notes' is "):
        Bundle.open(bundle.directory)


@pytest.mark.parametrize("text", ["plain", "\x1b[2J", "a\u202eb", "x" * 5000, "\x00" * 999, "世"])
def test_any_text_becomes_a_note_that_a_manifest_may_hold(text: str) -> None:
    note = noted(text)
    assert note.isprintable()
    assert len(note) <= 1000
    assert noted(note) == note
    assert not text.isprintable() or len(text) > 1000 or note == text


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


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
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


def test_a_manifest_without_an_end_is_read_no_further_than_it_may_be_long(bundle: Bundle) -> None:
    (bundle.directory / MANIFEST).write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(BadBundle, match="more than 1,048,576 bytes"):
        Bundle.open(bundle.directory)
