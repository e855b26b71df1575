"""The manifest of a bundle: read back as written, and refused if it was edited or is nonsense."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from command_line import Edit
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import EMBED, GRAPH, GRAPHS, MANIFEST, PORTABLE_GRAPH, noted
from gpt2rt.errors import BadBundle
from models import BUNDLE_FILES, TINY


def body_of(bundle: Bundle) -> dict[str, Any]:
    return dict(json.loads((bundle.directory / MANIFEST).read_text(encoding="utf-8")))


def write_body(bundle: Bundle, body: dict[str, Any]) -> None:
    """Write a manifest with a valid digest."""
    rest = {key: value for key, value in body.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (bundle.directory / MANIFEST).write_text(json.dumps({**rest, "digest": digest}))


ON_DEMAND = (EMBED, PORTABLE_GRAPH)  # bundles of before have none


# ---- the manifest


def test_a_manifest_reads_back_as_it_was_written(bundle: Bundle) -> None:
    (bundle.directory / MANIFEST).write_text(bundle.manifest.to_json())
    assert Bundle.open(bundle.directory) == bundle
    assert bundle.manifest.hparams == TINY
    names = {*BUNDLE_FILES, *GRAPHS}
    assert set(bundle.manifest.files) == names
    assert bundle.bytes == sum((bundle.directory / name).stat().st_size for name in names)


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


@pytest.mark.parametrize("name", [name for name in BUNDLE_FILES if name not in ON_DEMAND])
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


def test_a_manifest_without_an_end_is_read_no_further_than_it_may_be_long(bundle: Bundle) -> None:
    (bundle.directory / MANIFEST).write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(BadBundle, match="more than 1,048,576 bytes"):
        Bundle.open(bundle.directory)
