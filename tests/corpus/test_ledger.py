"""The manifest of an output: one writer, and what is refused stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from gpt2rt.corpus.destination import Destination
from gpt2rt.corpus.layout import DonePart
from gpt2rt.corpus.ledger import VERSION, Ledger
from gpt2rt.corpus.locks import locked
from gpt2rt.errors import InvalidSetting

JOB = {"job": "tokenize"}
PART = DonePart(
    part=0, rows=1, records=1, rejects=0, bytes=2, input="", sha256="", rejects_sha256=""
)


@pytest.fixture(params=["out/", "out.jsonl"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    return Destination.of(str(tmp_path / request.param) + ("/" if request.param[-1] == "/" else ""))


def test_a_second_writer_is_refused_however_often_it_tries(place: Destination) -> None:
    with closing(Ledger(place, JOB)) as first:
        for _ in range(3):
            with pytest.raises(InvalidSetting, match="another run is writing it"):
                Ledger(place, JOB)
            assert place.manifest.exists()
        first.add(PART)
    with closing(Ledger(place, JOB)) as again:
        assert again.done == {0: PART}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: '{"name": "of others"}\n',
        lambda text: "nothing like it\n",
        lambda text: text.replace(f'"version": {VERSION}', '"version": 1'),
        lambda text: text + "{}\n",
    ],
)
def test_a_manifest_that_is_refused_stays_as_it_is(
    place: Destination, change: Callable[[str], str]
) -> None:
    with closing(Ledger(place, JOB)) as first:
        first.add(PART)
    text = change(place.manifest.read_text())
    place.manifest.write_text(text)
    for _ in range(2):
        with pytest.raises(InvalidSetting):
            Ledger(place, JOB)
        assert place.manifest.read_text() == text


def test_a_run_that_did_nothing_leaves_nothing(place: Destination) -> None:
    Ledger(place, JOB).close()
    assert not place.manifest.exists()
    assert not place.directory.exists()


def test_directories_that_were_made_for_nothing_go(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    Ledger(Destination.of(f"{tmp_path}/own/a/b/"), JOB).close()
    assert [*tmp_path.rglob("*")] == [tmp_path / "own"]


def test_a_directory_of_the_user_stays(tmp_path: Path) -> None:
    place = Destination.of(f"{tmp_path}/")
    Ledger(place, JOB).close()
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_goes_while_it_is_opened_is_made_again(
    place: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def removed_before(file: BinaryIO) -> bool:
        tries.append(file)
        if len(tries) == 1:
            place.manifest.unlink()
        return locked(file)

    monkeypatch.setattr("gpt2rt.corpus.ledger.locked", removed_before)
    with closing(Ledger(place, JOB)) as first:
        first.add(PART)
        assert place.manifest.read_text().count("\n") == 2
