"""Bundles from URLs: fetched once, checked, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from command_line import Command, Edit
from file_server import Fault, FileServer
from gpt2rt import GPT2
from gpt2rt.bundles import fetching, library, storage
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.fetching import fetched
from gpt2rt.bundles.packing import pack
from gpt2rt.errors import (
    BadBundle,
    DownloadFailure,
    Gpt2rtError,
    InvalidSetting,
    MissingExtra,
)

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def impatient(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BACKOFF", 0.001)
    monkeypatch.setattr(fetching, "STALL", 0.3)


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A folder with the packed bundle `tiny.gpt2rt`."""
    (tmp_path / "served").mkdir()
    pack(bundle, tmp_path / "served" / "tiny.gpt2rt")
    return tmp_path / "served"


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.01,))
        thread.start()
        yield started
        started.over.set()
        started.shutdown()
        thread.join()


@pytest.fixture
def url(server: FileServer) -> str:
    return f"{server.root}/any/tiny.gpt2rt"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def left_in(home: Path) -> list[str]:
    """What lies in the home directory but locks and notes."""
    names = (str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith((".lock", "checked.json")))


@pytest.mark.parametrize("kind", ["file", "http", "memory"])
def test_a_bundle_is_fetched_once_and_is_the_same(
    kind: str, folder: Path, url: str, server: FileServer, bundle: Bundle
) -> None:
    packed = folder / "tiny.gpt2rt"
    fsspec.filesystem("memory").pipe("/bucket/tiny.gpt2rt", packed.read_bytes())
    named = {"file": packed.as_uri(), "http": url, "memory": "memory://bucket/tiny.gpt2rt"}[kind]
    found = library.find(named)
    assert found.digest == bundle.digest
    found.check()
    packed.unlink()
    fsspec.filesystem("memory").rm("/bucket/tiny.gpt2rt")
    server.files.clear()
    assert library.find(named).directory == found.directory
    assert GPT2.load(named, threads=1).bundle.digest == bundle.digest


def test_who_comes_meanwhile_waits_and_nothing_comes_twice(url: str, server: FileServer) -> None:
    server.gate.clear()
    with ThreadPoolExecutor(4) as threads:
        wanted = [threads.submit(fetched, url) for _ in range(4)]
        server.gate.set()
        places = {future.result().directory for future in wanted}
    assert len(places) == 1
    gets = len(server.asked_for("tiny.gpt2rt"))
    fetched(url)
    assert len(server.asked_for("tiny.gpt2rt")) == gets <= 2  # one may ask for the size


def test_a_pin_decides(url: str, folder: Path, home: Path) -> None:
    pin = sha256(folder / "tiny.gpt2rt")
    fetched(f"{url}#sha256={pin}").check()
    other = "0" * 64
    with pytest.raises(BadBundle, match=r"sha256 .*, not the 000000000000… of the URL"):
        fetched(f"{url}#sha256={other}")
    with pytest.raises(InvalidSetting, match="can only be sha256="):
        fetched(f"{url}#md5=1234")


def test_another_digest_is_fetched_again(
    url: str, server: FileServer, bundle: Bundle, edit_manifest: Edit, tmp_path: Path
) -> None:
    old = fetched(url).digest
    edit_manifest(bundle, notes=("newer",))
    newer = Bundle.open(bundle.directory)
    pack(newer, tmp_path / "newer.gpt2rt")
    server.files["tiny.gpt2rt"] = (tmp_path / "newer.gpt2rt").read_bytes()
    assert fetched(url).digest == old, "what is here is taken as it is"
    assert fetched(url, newer.digest).digest == newer.digest == fetched(url).digest
    with pytest.raises(BadBundle, match="a bundle with digest"):
        fetched(url, "1" * 64)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("404", "no such file"),
        ("403", "status 403"),
        ("503", "status 503"),
        ("damage", "damaged"),
        ("html", "no packed bundle"),
        ("cut", None),
        ("stall", "nothing came for"),
        ("hang-up", None),
    ],
)
def test_what_does_not_come_whole_leaves_nothing(
    kind: str, told: str | None, url: str, server: FileServer, home: Path
) -> None:
    server.always["tiny.gpt2rt"] = Fault(kind, 0.3)
    with pytest.raises((DownloadFailure, BadBundle), match=told) as caught:
        fetched(url + "?key=secret")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert left_in(home) == []
    server.always.clear()
    fetched(url + "?key=secret").check()


@pytest.mark.parametrize("kind", ["cut", "503", "hang-up"])
def test_what_fails_in_passing_is_tried_again(kind: str, url: str, server: FileServer) -> None:
    server.faults = [Fault(kind, 0.3)] * 2
    fetched(url).check()


def test_http_is_for_this_machine_alone(
    url: str, server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "http://192.0.2.1/models"
    with pytest.raises(InvalidSetting, match="over http anyone on the way"):
        fetched(f"{away}/tiny.gpt2rt")
    server.moved = away
    with pytest.raises(InvalidSetting, match=r"192\.0\.2\.1.*over http"):
        fetched(url)


@pytest.mark.parametrize("text", ["http://[::1", "s3::http://x/y", "https://x/a b", "nosuch://x/y"])
def test_what_is_no_url_of_a_bundle_is_told(text: str) -> None:
    with pytest.raises(Gpt2rtError) as caught:
        fetched(text)
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(MissingExtra, match="s3fs"):
        fetched("s3://bucket/tiny.gpt2rt")
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"gpt2rt\[urls\]"):
        fetched(url)


def test_offline_only_what_is_here(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2RT_OFFLINE", "1")
    with pytest.raises(DownloadFailure, match="GPT2RT_OFFLINE"):
        fetched(url)
    monkeypatch.delenv("GPT2RT_OFFLINE")
    fetched(url)
    monkeypatch.setenv("GPT2RT_OFFLINE", "1")
    fetched(url)


def test_no_more_comes_than_is_allowed(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(fetching, "LARGEST", 1000)
    with pytest.raises(DownloadFailure, match="cannot be a bundle"):
        fetched(url)
    assert left_in(home) == []


def test_progress_is_told(url: str, folder: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetched(url, progress=lambda done, total: told.append((done, total)))
    size = (folder / "tiny.gpt2rt").stat().st_size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_damaged_one_is_removed_by_the_command_that_is_named(
    command: Command, url: str, server: FileServer
) -> None:
    place = fetched(url).directory
    (place / "model.onnx").write_bytes(b"x")
    with pytest.raises(BadBundle, match="gpt2rt models remove fetched/tiny-") as caught:
        fetched(url)
    name = str(caught.value).split("`")[1].split()[-1]
    assert name in command("models").out.replace("\n", "")
    assert command("models", "remove", name, "--yes").code == 0
    assert storage.fetched() == []
    fetched(url).check()


def test_commands_take_a_url(command: Command, url: str, folder: Path) -> None:
    one = command("generate", "x", "-m", url, "--seed", "1", "--length", "3")
    assert one.code == 0, one.err
    shutil.rmtree(folder)
    assert command("score", "x", "-m", url, "--json").code == 0
    assert command("generate", "x", "-m", "http://192.0.2.1/x").code == 2
