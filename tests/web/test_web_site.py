"""The folder that `gpt2rt web` writes, and what it says where it writes none."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Command
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import BadBundle, BundleExists, DownloadFailure, InvalidSetting
from gpt2rt_export.fetch.network import Network
from gpt2rt_export.progress import NoProgress
from gpt2rt_export.web import runtime, site
from pages import hosted


def files_of(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def test_a_page_is_whole(demo_page: Path) -> None:
    """It says of each large file what it is; everything else is kept by the service worker."""
    found = files_of(demo_page)
    about = json.loads(found["model.json"])
    for name, record in about["files"].items():
        data = found.pop(name)
        assert record == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    worker = found.pop("sw.js").decode()
    listed = re.search(r"const FILES = (\[.*\]);", worker)
    assert listed is not None
    assert sorted(json.loads(listed[1])) == sorted(found)
    imported = re.findall(r'from "\./(.*?)"', "".join(text.decode() for text in found.values()))
    assert {f"page/{name}" for name in imported} <= set(found)
    for device in about["devices"].values():
        assert {f"{device['runtime']}.wasm", device["graph"]} <= set(about["files"])


def test_a_page_is_small(demo_page: Path) -> None:
    sizes = {name: len(data) for name, data in files_of(demo_page).items()}
    own = sum(size for name, size in sizes.items() if not name.startswith("runtime/"))
    assert own < 6_000_000


def test_a_page_names_no_other_host(demo_page: Path) -> None:
    for name, data in files_of(demo_page).items():
        if name.startswith("page/") or "/" not in name:
            found = set(re.findall(r"https?://[^\s\"'`)]+", data.decode()))
            assert found <= {"http://www.w3.org/2000/svg"}, name


def test_a_page_says_what_its_settings_do(demo_page: Path) -> None:
    fields = json.loads((demo_page / "model.json").read_text())["fields"]
    temperature = fields["temperature"]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 100)
    assert temperature["description"].startswith("Logits are divided by it")
    assert fields["top_k"]["whole"]
    assert not temperature["whole"]


def test_a_page_is_written_once(demo: Bundle, demo_page: Path, package: Path) -> None:
    before = (demo_page / "sw.js").stat().st_mtime_ns
    assert not site.write(demo, demo_page, package)
    assert (demo_page / "sw.js").stat().st_mtime_ns == before


def test_another_page_is_replaced_only_if_asked(
    demo: Bundle, package: Path, tmp_path: Path, tiny_bundles: dict[str, Bundle]
) -> None:
    place = tmp_path / "page"
    assert site.write(tiny_bundles["int8"], place, package)
    with pytest.raises(BundleExists, match="--force"):
        site.write(demo, place, package)
    assert site.write(demo, place, package, force=True)
    assert json.loads((place / "model.json").read_text())["name"] == "demo-int8"
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_a_page_is_written_anew_if_asked(demo: Bundle, package: Path, tmp_path: Path) -> None:
    """So a page that lost a file is mended."""
    place = tmp_path / "page"
    assert site.write(demo, place, package)
    whole = files_of(place)
    (place / "model" / "weights.bin").unlink()
    assert site.write(demo, place, package, force=True)
    assert files_of(place) == whole


def test_what_lies_beside_a_page_stays(demo: Bundle, package: Path, tmp_path: Path) -> None:
    """As the `.git` of the folder that a host takes pages from."""
    place = tmp_path / "page"
    assert site.write(demo, place, package)
    (place / ".git").mkdir()
    with pytest.raises(BundleExists, match="nothing else is beside it"):
        site.write(demo, place, package, force=True)
    assert (place / ".git").is_dir()


@pytest.mark.parametrize("force", [False, True])
def test_nothing_else_is_replaced(demo: Bundle, package: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(BundleExists):
        site.write(demo, tmp_path, package, force=force)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleExists):
        site.write(demo, tmp_path / "file", package, force=force)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_damaged_bundle_leaves_nothing(bundle: Bundle, package: Path, tmp_path: Path) -> None:
    weights = bundle.directory / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BadBundle, match=r"weights\.bin: sha256"):
        site.write(bundle, tmp_path / "page", package)
    assert not (tmp_path / "page").exists()


def test_other_tokenizers_are_refused(
    bundle: Bundle, edit_manifest: Callable[..., None], tmp_path: Path
) -> None:
    files = dict(bundle.manifest.files)
    record = files.pop("encoder.json")
    for name in ("tokenizer.json", "special_tokens.json"):
        files[name] = record
        (bundle.directory / "encoder.json").replace(bundle.directory / name)
        (bundle.directory / "encoder.json").write_bytes((bundle.directory / name).read_bytes())
    (bundle.directory / "encoder.json").unlink()
    edit_manifest(bundle, files=files)
    with pytest.raises(InvalidSetting, match="byte-level BPE only"):
        site.check(Bundle.open(bundle.directory))


# ---- the runtime


def test_only_the_pinned_runtime_is_taken(tmp_path: Path) -> None:
    other = tmp_path / "onnxruntime-web.tgz"
    other.write_bytes(b"?" * 100)
    with pytest.raises(InvalidSetting, match=r"`npm pack onnxruntime-web@1\.30\.0` makes it"):
        runtime.runtime(other, Network(), NoProgress())


def test_offline_the_runtime_is_not_fetched(home: Path) -> None:
    with pytest.raises(DownloadFailure, match="--runtime"):
        runtime.runtime(None, Network(offline=True), NoProgress())


def test_the_runtime_is_fetched_once_and_checked(
    home: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "npm"
    place.mkdir()
    (place / runtime.FILE).write_bytes(b"?" * runtime.BYTES)
    with hosted(place) as address:
        monkeypatch.setattr(runtime, "URL", f"{address}{runtime.FILE}")
        with pytest.raises(DownloadFailure, match="not the file that it was"):
            runtime.runtime(None, Network(), NoProgress())
        (place / runtime.FILE).write_bytes(package.read_bytes())
        found = runtime.runtime(None, Network(), NoProgress())
    assert found == runtime.runtime(None, Network(offline=True), NoProgress())
    assert found.read_bytes() == package.read_bytes()


# ---- the server and the command


@pytest.mark.parametrize("isolated", [True, False])
def test_the_server_isolates_pages(tmp_path: Path, isolated: bool) -> None:
    (tmp_path / "a.mjs").write_text("1")
    with hosted(tmp_path, isolated=isolated) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}a.mjs") as answer:
            assert answer.headers["Content-Type"] == "text/javascript"
            policy = answer.headers["Cross-Origin-Embedder-Policy"]
    assert policy == ("require-corp" if isolated else None)


def test_the_command_writes_a_page(
    command: Command, model: Path, package: Path, tmp_path: Path
) -> None:
    place = tmp_path / "page"
    line = ("web", model, "--output", place, "--runtime", package)
    first, again = command(*line), command(*line)
    assert first.code == again.code == 0, first.err
    assert re.search(r"page: tiny-int8 as a page, 41\.\d MB", first.out)
    assert "has this page of tiny-int8 already" in again.out


def test_the_command_tells_what_it_cannot_do(
    command: Command, odd_bundle: Bundle, tmp_path: Path
) -> None:
    refused = command("web", odd_bundle.directory, "--output", tmp_path / "page")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "export with --int8" in refused.err
    assert command("web", "nothing", "--output", tmp_path / "page").code == 1


def test_a_page_has_the_runtimes_of_its_devices_only(
    tiny_bundles: dict[str, Bundle], package: Path, tmp_path: Path
) -> None:
    for precision, ending in (("int4", "asyncify.wasm"), ("fp16", "threaded.wasm")):
        site.write(tiny_bundles[precision], tmp_path / precision, package)
        (binary,) = (tmp_path / precision / "runtime").glob("*.wasm")
        assert binary.name.endswith(ending)


def test_the_extra_is_named(
    command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gpt2rt.cli.commands.web.find_spec", lambda name: None if name == "onnx" else name
    )
    refused = command("web", model, "--output", tmp_path / "page")
    assert refused.code == 1
    assert refused.err.endswith('pages for the browser need onnx: pip install "gpt2rt[web]"\n')
