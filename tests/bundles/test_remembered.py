"""Weights are not hashed again while their file is the same, and a changed file always is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2rt import GPT2
from gpt2rt.bundles import files, remembered
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.bundles.manifest import WEIGHTS
from gpt2rt.errors import BadBundle

LONG_AGO = 1_000_000_000  # seconds since 1970


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' small weights count as large."""
    monkeypatch.setattr(remembered, "LEAST", 0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed from now on."""
    done: list[Path] = []
    sha256 = files.sha256

    def noted(path: Path, most: int | None = None) -> str:
        done.append(path)
        return sha256(path, most)

    monkeypatch.setattr(files, "sha256", noted)
    return done


@pytest.fixture
def old(bundle: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle that was written long before it is checked: the clock is ahead by a minute."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 60_000_000_000)
    return bundle


def look(bundle: Bundle) -> None:
    bundle.check([WEIGHTS], again=False)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)[0]
        file.seek(100)
        file.write(bytes([byte ^ 1]))


def test_a_file_that_stays_is_hashed_once(old: Bundle, hashed: list[Path]) -> None:
    for _ in range(3):
        look(old)
    assert hashed == [old.directory / WEIGHTS]


def test_a_small_file_is_hashed_each_time(
    old: Bundle, home: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "LEAST", old.manifest.files[WEIGHTS].bytes + 1)
    for _ in range(2):
        look(old)
    assert len(hashed) == 2
    assert not home.exists()


def test_loading_hashes_the_weights_once_and_the_rest_each_time(
    old: Bundle, hashed: list[Path]
) -> None:
    for _ in range(2):
        GPT2(old).close()
    names = [path.name for path in hashed]
    assert names.count(WEIGHTS) == 1
    assert all(names.count(name) == 2 for name in old.manifest.files if name != WEIGHTS)


def test_a_check_of_everything_does_not_use_what_is_remembered(
    old: Bundle, hashed: list[Path]
) -> None:
    """As `gpt2rt verify` does."""
    look(old)
    hashed.clear()
    old.check()
    assert {path.name for path in hashed} == set(old.manifest.files)


def test_a_change_is_found_whatever_the_file_says_of_its_time(old: Bundle) -> None:
    weights = old.directory / WEIGHTS
    os.utime(weights, (LONG_AGO, LONG_AGO))
    look(old)
    flip(weights)
    os.utime(weights, (LONG_AGO, LONG_AGO))
    with pytest.raises(BadBundle, match="sha256"):
        look(old)


def test_another_file_in_its_place_is_found(old: Bundle, tmp_path: Path) -> None:
    weights, other = old.directory / WEIGHTS, tmp_path / "other"
    shutil.copy2(weights, other)
    look(old)
    flip(other)
    shutil.copystat(weights, other)
    os.replace(other, weights)
    with pytest.raises(BadBundle, match="sha256"):
        look(old)


@pytest.mark.parametrize("field", ["bytes", "mtime_ns", "ctime_ns", "inode", "device"])
def test_whatever_differs_the_file_is_hashed(
    old: Bundle, hashed: list[Path], home: Path, field: str
) -> None:
    look(old)
    place = home / remembered.NOTES.name
    ((name, note),) = json.loads(place.read_text()).items()
    note[list(remembered.Look.__slots__).index(field)] += 1
    place.write_text(json.dumps({name: note}))
    look(old)
    assert len(hashed) == 2


def test_a_file_that_was_just_written_is_not_remembered(
    bundle: Bundle, home: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within the same tick of the file system's clock would not show."""
    monkeypatch.setattr(remembered, "SETTLED_NS", 3600 * 10**9)  # as long as this may take
    flip(bundle.directory / WEIGHTS)
    flip(bundle.directory / WEIGHTS)
    for _ in range(2):
        look(bundle)
    assert len(hashed) == 2
    assert not (home / remembered.NOTES.name).exists()


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    old: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = files.sha256

    def meanwhile(path: Path, most: int | None = None) -> str:
        found = sha256(path, most)
        time.sleep(0.02)  # a tick of the file system's clock
        flip(path)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(files, "sha256", meanwhile)
        look(old)
    assert not (home / remembered.NOTES.name).exists()
    with pytest.raises(BadBundle, match="sha256"):
        look(old)


def test_damage_is_not_remembered(old: Bundle, home: Path, hashed: list[Path]) -> None:
    flip(old.directory / WEIGHTS)
    for _ in range(2):
        with pytest.raises(BadBundle, match="sha256"):
            look(old)
    assert len(hashed) == 2
    assert not (home / remembered.NOTES.name).exists()


@pytest.mark.parametrize(
    "notes", [b"", b"{", b"\xff", b"[]", b"7", b'{"x": 1}', b"[" * 10_000, b" " * (2 << 20)]
)
def test_damaged_notes_are_written_anew(
    old: Bundle, home: Path, hashed: list[Path], notes: bytes
) -> None:
    home.mkdir(exist_ok=True)
    (home / remembered.NOTES.name).write_bytes(notes)
    look(old)
    look(old)
    assert len(hashed) == 1


def test_a_note_with_another_digest_is_no_proof(old: Bundle, home: Path) -> None:
    look(old)
    place = home / remembered.NOTES.name
    ((name, note),) = json.loads(place.read_text()).items()
    place.write_text(json.dumps({name: [*note[:-1], "\x1b[2J"]}))
    look(old)  # hashed: right
    assert json.loads(place.read_text()) == {name: note}


def test_a_home_that_cannot_be_written_is_no_error(
    old: Bundle, home: Path, hashed: list[Path]
) -> None:
    home.write_text("a file where the directory would be")
    for _ in range(2):
        look(old)
    assert len(hashed) == 2


def test_the_notes_stay_small(old: Bundle, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2rt.bundles.notes.MOST", 3)
    home.mkdir(exist_ok=True)
    (home / remembered.NOTES.name).write_text(json.dumps({f"{n}": [n] for n in range(5)}))
    look(old)
    assert list(json.loads((home / remembered.NOTES.name).read_text()))[:2] == ["3", "4"]


def test_two_processes_at_once_leave_whole_notes(
    bundle: Bundle, home: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, time; now = time.time_ns; time.time_ns = lambda: now() + 60_000_000_000\n"
        "from pathlib import Path; from gpt2rt.bundles.bundle import Bundle\n"
        "from gpt2rt.bundles import remembered; remembered.LEAST = 0\n"
        "for _ in range(30):\n"
        "    for place in sys.argv[1:]:\n"
        "        Bundle.open(Path(place)).check(['weights.bin'], again=False)"
    )
    twin = tmp_path / "twin"
    shutil.copytree(bundle.directory, twin)
    places = [str(bundle.directory), str(twin)]
    programs = [
        subprocess.Popen([sys.executable, "-c", code, *order]) for order in (places, places[::-1])
    ]
    assert [program.wait(300) for program in programs] == [0, 0]
    noted = json.loads((home / remembered.NOTES.name).read_text())
    assert noted.keys() <= {f"{place}/{WEIGHTS}" for place in places}
    assert [path.name for path in home.iterdir()] == [remembered.NOTES.name]
