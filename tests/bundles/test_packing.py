"""Packed bundles: unpacking restores every bit, and refuses anything that is not a bundle."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Command, Edit
from gpt2rt import GPT2, SamplingParams, Stopping
from gpt2rt.bundles import packing
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import GRAPH, MANIFEST, WEIGHTS
from gpt2rt.bundles.packing import pack, unpack
from gpt2rt.errors import BadBundle, BundleExists, Gpt2rtError


@pytest.fixture
def packed(bundle: Bundle, tmp_path: Path) -> Path:
    pack(bundle, tmp_path / "tiny.gpt2rt")
    return tmp_path / "tiny.gpt2rt"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def rewrite(packed: Path, change: Callable[[str, zipfile.ZipInfo, bytes], object]) -> None:
    """Pack again, after `change` edits the members; those it returns are left out."""
    with zipfile.ZipFile(packed) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(packed, "w") as archive:
        for info, data in members:
            if not change(info.filename, info, data):
                archive.writestr(info, data)


def refusal(packed: Path, tmp_path: Path) -> str:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadBundle) as caught:
        unpack(packed, tmp_path / "inside" / "out")
    after = [path for path in sorted(tmp_path.rglob("*")) if path.name != "inside"]
    assert after == before, "nothing is left behind"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bundle_comes_back_bit_for_bit_and_runs(
    packed: Path, bundle: Bundle, tmp_path: Path
) -> None:
    found = unpack(packed, tmp_path / "out")
    assert contents(found.directory) == contents(bundle.directory)
    greedy = SamplingParams(temperature=0)
    one, other = (
        GPT2.load(b.directory, threads=1).generate("x", greedy, Stopping(5, end_of_text=False))
        for b in (bundle, found)
    )
    assert one.tokens == other.tokens
    assert stat.S_IMODE(found.directory.stat().st_mode) == 0o755


def test_packing_is_repeatable_and_told_of(bundle: Bundle, packed: Path, tmp_path: Path) -> None:
    told: list[int] = []
    pack(bundle, tmp_path / "again", advance=told.append)
    assert (tmp_path / "again").read_bytes() == packed.read_bytes()
    assert sum(told) == bundle.bytes
    told.clear()
    unpack(packed, tmp_path / "out", advance=told.append)
    assert sum(told) == bundle.bytes


def test_what_is_there_is_never_overwritten(bundle: Bundle, packed: Path, tmp_path: Path) -> None:
    before = packed.read_bytes()
    with pytest.raises(BundleExists, match="--force"):
        pack(bundle, packed)
    pack(bundle, packed, force=True)
    assert packed.read_bytes() == before
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    with pytest.raises(BundleExists):
        pack(bundle, letter, force=True)
    with pytest.raises(BundleExists):
        unpack(packed, letter)
    with pytest.raises(BundleExists, match="exists already"):
        unpack(packed, bundle.directory)
    assert letter.read_text() == "dear"
    (tmp_path / "empty").mkdir()
    assert unpack(packed, tmp_path / "empty").directory == tmp_path / "empty"


def test_a_damaged_bundle_is_not_packed(bundle: Bundle, tmp_path: Path) -> None:
    data = bytearray((bundle.directory / WEIGHTS).read_bytes())
    data[7] ^= 1
    (bundle.directory / WEIGHTS).write_bytes(data)
    with pytest.raises(BadBundle, match=r"weights\.bin: sha256"):
        pack(bundle, tmp_path / "out.gpt2rt")
    assert not list(tmp_path.glob("*out*")) + list(tmp_path.glob(".*out*"))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "C:evil", "..", "", "a\\b", "é"])
def test_names_that_lead_elsewhere_are_refused(packed: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    assert "is not the name of a bundle's file" in refusal(packed, tmp_path)
    assert not list(tmp_path.rglob("*evil*"))


def test_links_and_folders_are_refused(packed: Path, tmp_path: Path) -> None:
    for kind in (stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO):

        def change(name: str, info: zipfile.ZipInfo, data: bytes, kind: int = kind) -> None:
            info.external_attr = (kind | 0o777) << 16

        rewrite(packed, change)
        assert "is no plain stored file" in refusal(packed, tmp_path)


def test_a_bomb_is_refused_unread(packed: Path, tmp_path: Path) -> None:
    def compress(name: str, info: zipfile.ZipInfo, data: bytes) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    rewrite(packed, compress)
    assert "is no plain stored file" in refusal(packed, tmp_path)


def test_members_missing_unknown_and_twice_are_refused(packed: Path, tmp_path: Path) -> None:
    good = packed.read_bytes()
    for name in (GRAPH, MANIFEST):
        packed.write_bytes(good)
        rewrite(packed, lambda found, *rest, name=name: found == name)
        assert name in refusal(packed, tmp_path)
    packed.write_bytes(good)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("readme.txt", "more")
    assert "readme.txt: missing, or not in the manifest" in refusal(packed, tmp_path)
    packed.write_bytes(good)
    with zipfile.ZipFile(packed, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(GRAPH, "more")
    assert "is there twice" in refusal(packed, tmp_path)


def test_sizes_and_hashes_of_the_manifest_hold(packed: Path, tmp_path: Path) -> None:
    good = packed.read_bytes()

    def replace(new: bytes) -> None:
        packed.write_bytes(good)
        rewrite(packed, lambda name, info, data: name == WEIGHTS)
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr(zipfile.ZipInfo(WEIGHTS), new)

    with zipfile.ZipFile(packed) as archive:
        data = archive.read(WEIGHTS)
    replace(data + b"\0")
    assert f"weights.bin has {len(data) + 1} bytes, not the {len(data)}" in refusal(
        packed, tmp_path
    )
    replace(bytes(len(data)))
    assert "weights.bin is damaged" in refusal(packed, tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\5\6" + bytes(18), b"x" * 1000])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gpt2rt").write_bytes(content)
    assert "x.gpt2rt: " in refusal(tmp_path / "x.gpt2rt", tmp_path)


def test_no_such_file_and_no_room(
    packed: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No such file" in refusal(tmp_path / "none.gpt2rt", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(Gpt2rtError, match=r"0\.0 MB free, .* MB are needed"):
        unpack(packed, tmp_path / "out")
    with pytest.raises(Gpt2rtError, match="MB are needed"):
        pack(bundle, tmp_path / "again")


def test_a_place_that_cannot_be_written_is_named(bundle: Bundle, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere" / "x.gpt2rt", bundle.directory / GRAPH / "x.gpt2rt"):
        with pytest.raises(Gpt2rtError, match=r"x\.gpt2rt: .* choose another place") as caught:
            pack(bundle, place)
        assert "partial" not in str(caught.value)


def test_a_bundle_of_any_name_a_directory_may_have_finds_its_place(
    bundle: Bundle, home: Path, edit_manifest: Edit, tmp_path: Path
) -> None:
    for name in ("my fine tune", "dré 👋", "v1.2"):
        edit_manifest(bundle, model=name)
        pack(Bundle.open(bundle.directory), tmp_path / "x.gpt2rt", force=True)
        assert unpack(tmp_path / "x.gpt2rt").directory == home / "bundles" / f"{name}-int8"
    edit_manifest(bundle, model=".hidden")
    pack(Bundle.open(bundle.directory), tmp_path / "x.gpt2rt", force=True)
    with pytest.raises(BadBundle, match="choose a place with --output"):
        unpack(tmp_path / "x.gpt2rt")


# ---- the command line


def test_pack_and_unpack_from_the_command_line(
    command: Command, bundle: Bundle, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("pack", bundle.directory).out.startswith("tiny-int8.gpt2rt: ")
    assert (tmp_path / f"tiny-int8{packing.SUFFIX}").is_file()
    ended = command("generate", "--model", "tiny-int8.gpt2rt")
    assert "a packed bundle; run `gpt2rt unpack tiny-int8.gpt2rt` first" in ended.in_one_line()
    ended = command("unpack", "tiny-int8.gpt2rt")
    assert ended.out.endswith("Try it: gpt2rt generate --model tiny-int8\n")
    assert (home / "bundles" / "tiny-int8" / MANIFEST).is_file()
    assert command("generate", "--model", "tiny", "x", "--length", "2").code == 0
    ended = command("unpack", "tiny-int8.gpt2rt")
    assert "exists already" in ended.in_one_line()


def test_models_are_described_and_removed(
    command: Command, exported: Callable[[str], Bundle], home: Path
) -> None:
    first, second = exported("117M"), exported("345M")
    (home / "checkpoints" / "762M").mkdir(parents=True)
    (home / "checkpoints" / "762M" / "hparams.json").write_text("{}")
    listed = {record["name"]: record for record in command("models", "--json").records}
    assert list(listed) == ["117M-int8", "345M-int8", "demo", "checkpoints/762M", "total"]
    assert listed["checkpoints/762M"]["bytes"] == 2
    rows = command("models").out
    assert "checkpoints/762M" in rows
    assert f"on disk in {home}" in rows

    (facts,) = command("models", "info", "124M", "--json").records
    assert facts["hparams"] == first.manifest.hparams.as_dict()
    assert facts["files"][WEIGHTS]["sha256"] == first.manifest.files[WEIGHTS].sha256
    parts = dict(facts["parameters"])
    assert parts.pop("all") == sum(parts.values())
    assert parts["token embedding"] == 300 * 32
    assert "sha256" in command("models", "info", "117M-int8").out
    assert "hparams.json: 2" in command("models", "info", "checkpoints/774M").out

    assert "nobody to ask; remove it with --yes" in command("models", "remove", "117M-int8").err
    assert "there is 117M-int8, 345M-int8, checkpoints/762M" in (
        command("models", "remove", "117M", "--yes").in_one_line()
    )
    assert first.directory.exists()
    (removed,) = command("models", "remove", "124m-int8", "--yes", "--json").records
    assert removed["bytes"] > first.bytes
    (second.directory / GRAPH).unlink()
    assert "removed" in command("models", "remove", "345M-int8", "-y").out
    assert "removed" in command("models", "remove", "checkpoints/774M", "-y").out
    *_, total = command("models", "--json").records
    assert total["bytes"] == 0
    assert not list((home / "bundles").iterdir())


def test_a_link_is_removed_and_not_what_it_leads_to(
    command: Command, bundle: Bundle, home: Path
) -> None:
    (home / "bundles").mkdir(parents=True)
    (home / "bundles" / "mine-int8").symlink_to(bundle.directory, target_is_directory=True)
    assert command("models", "remove", "mine-int8", "--yes").code == 0
    assert not list((home / "bundles").iterdir())
    bundle.check()
