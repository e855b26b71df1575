"""Files that are not what was published are found, named and fetched again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from downloads import NOWHERE, Notes, damaged, network, refusal, whole
from file_server import (
    FileServer,
)
from gpt2rt.bundles import catalog
from gpt2rt.bundles.catalog import (
    CHECKPOINT_FILES,
    DATA,
    ENCODER,
    HPARAMS,
    INDEX,
    MERGES,
    META,
    STATE,
    Release,
)
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.integrity import RECEIPT, Receipt, fault
from openai_files import write_release


@pytest.mark.parametrize("name", sorted(set(CHECKPOINT_FILES) - {META}))
def test_only_the_file_that_went_bad_is_fetched_again(
    server: FileServer, release: Release, place: Path, name: str
) -> None:
    download(release, place, network(server))
    server.asked.clear()
    damaged(place / name)
    told = Notes()
    assert download(release, place, network(server), told).fetched == (name,)
    assert [path.rsplit("/", 1)[1] for path, _ in server.asked] == [name]
    assert name in told.notes[0]
    assert whole(place, server)


def test_a_file_touched_is_checked_and_a_file_of_another_size_is_bad(
    server: FileServer, release: Release, place: Path
) -> None:
    download(release, place, network(server))
    os.utime(place / DATA, (1, 1))
    assert Receipt(place).untrusted() == [DATA]
    assert download(release, place, network(NOWHERE)).fetched == ()
    assert Receipt(place).untrusted() == []
    with (place / DATA).open("ab") as file:
        file.write(b"more")
    assert "16,900 bytes, not 16,896" in refusal(release, place, network(NOWHERE, offline=True))


def test_weights_are_checked_anew_by_a_new_index(
    server: FileServer, release: Release, place: Path
) -> None:
    download(release, place, network(server))
    (place / INDEX).unlink()
    assert set(Receipt(place).untrusted()) == {INDEX, DATA}
    told = Notes()
    assert download(release, place, network(server), told).fetched == (INDEX,)
    assert f"check {DATA}" in told.last


@pytest.mark.parametrize("receipt", ["", "{", "[]", "null", '{"format": 1}', '{"format": 99}'])
def test_a_receipt_that_says_nothing_is_none(
    server: FileServer, release: Release, place: Path, receipt: str
) -> None:
    download(release, place, network(server))
    (place / RECEIPT).write_text(receipt)
    assert set(Receipt(place).untrusted()) == set(CHECKPOINT_FILES)
    assert download(release, place, network(NOWHERE)).fetched == ()
    assert Receipt(place).untrusted() == []


def test_every_damaged_variable_is_named(
    server: FileServer, release: Release, place: Path, published: tuple[Path, Release]
) -> None:
    download(release, place, network(server))
    from gpt2rt_export.fetch.tensor_bundle import read_index

    variables = read_index(place / INDEX)
    spoilt = ["model/h0/ln_1/g", "model/h1/mlp/c_fc/w", "model/wte"]
    for name in spoilt:
        for at in (0, variables[name].bytes - 1):
            damaged(place / DATA, variables[name].offset + at)
    found = fault(DATA, place / DATA, release, place)
    assert found == f"damaged in {', '.join(spoilt)} (crc32c, of {len(variables)} variables)"
    (place / DATA).write_bytes(bytes(release.data_bytes))
    assert " and 23 more (crc32c, of 28 variables)" in str(
        fault(DATA, place / DATA, release, place)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [STATE, HPARAMS, INDEX])
def test_no_flipped_bit_and_no_cut_goes_unnoticed(
    name: str, published: tuple[Path, Release], tmp_path: Path
) -> None:
    place, release = published
    whole, damaged = (place / name).read_bytes(), tmp_path / name
    random = Random(name)
    for at, byte in enumerate(whole):
        damaged.write_bytes(whole[:at] + bytes([byte ^ 1 << random.randrange(8)]) + whole[at + 1 :])
        assert fault(name, damaged, release, place), at
        damaged.write_bytes(whole[:at])
        assert fault(name, damaged, release, place), at
    damaged.write_bytes(whole)
    assert fault(name, damaged, release, place) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (STATE, b"<html>", "does not name model.ckpt"),
        (STATE, b'model_checkpoint_path: "model.ckpt-9"\n', "does not name model.ckpt"),
        (HPARAMS, b"<html>", "cannot be read as JSON"),
        (HPARAMS, b'{"n_ctx": 8}', "missing"),
        (HPARAMS, None, "n_layer=3"),
        (INDEX, b"<html>", "not the index of a checkpoint"),
        (INDEX, None, "not the variables of 117M"),
        (META, b"<html>", "not a TensorFlow graph"),
        (META, b"", "empty"),
        (ENCODER, b"{}", "2 bytes, not 3,827"),
        (MERGES, bytes(200), "sha256 "),
    ],
)
def test_a_file_that_is_another_one_is_told_apart(
    server: FileServer,
    release: Release,
    place: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    said: str,
) -> None:
    if content is None:
        other = tmp_path / "other"
        write_release(other, replace(release.hparams, n_layer=3))
        content = (other / name).read_bytes()
    true = server.files[name]
    server.files[name] = content
    message = refusal(release, place, network(server, retries=1))
    assert f"{name} (" in message or f"{name} cannot be fetched ({server.root}/124M" in message
    assert "not what OpenAI published" in message or "the server has" in message
    assert not (place / name).exists()
    server.files[name] = true
    assert name in download(release, place, network(server)).fetched
    place.joinpath(name).write_bytes(content)
    assert said in refusal(release, place, network(server, offline=True))


def test_all_bad_files_are_named_and_another_location_makes_them_good(
    server: FileServer, second: FileServer, release: Release, place: Path
) -> None:
    for name in (INDEX, MERGES, STATE):
        server.files[name] = bytes(len(server.files[name]))
    message = refusal(release, place, network(server, retries=1))
    assert all(f"{name} (" in message for name in (INDEX, MERGES, STATE))
    assert ENCODER not in message
    assert DATA not in message
    assert not server.asked_for(DATA), "no gigabytes before the small files are good"
    told = Notes()
    download(release, place, network(server, second), told)
    assert whole(place, second)
    assert len(told.notes) == 3
    assert not server.asked_for(DATA)[1:]


def test_weights_that_fit_their_index_and_are_not_openais_are_forged(
    release: Release, published: tuple[Path, Release]
) -> None:
    path = published[0] / DATA
    assert fault(DATA, path, release, published[0]) is None
    known = {**release.known, DATA: catalog.KnownFile(release.data_bytes, "0" * 64)}
    reason = fault(DATA, path, replace(release, known=known), published[0])
    assert reason is not None
    assert reason.endswith("not 00000000")


def test_what_nobody_published_is_on_the_mirrors_word() -> None:
    found = {release.name: release.unpinned for release in catalog.RELEASES}
    assert found == {"117M": (), "345M": (), "762M": (DATA, INDEX, META), "1542M": ()}
