"""Downloads from a real HTTP server on this machine, well-behaved or not."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from command_line import Command
from faulty import fault_sequence
from file_server import (
    Fault,
    FileServer,
    HttpProxy,
    Parrot,
    Proxy,
    SocksProxy,
    same_files,
    serving,
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
from gpt2rt.errors import DownloadFailure, InvalidSetting
from gpt2rt_export.fetch import transfer
from gpt2rt_export.fetch.download import download
from gpt2rt_export.fetch.integrity import RECEIPT, Receipt, fault
from gpt2rt_export.fetch.network import Network
from models import SHARED
from openai_files import write_release

NOWHERE = "http://127.0.0.1:9/models"  # the discard port: nobody answers
SEQUENCES = 40  # of random faults; `make soak` runs 200
KILLS = 20  # `make soak` runs 300


class Notes:
    """Keeps what a download tells."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.last: dict[str, tuple[int, int | None]] = {}

    def bytes_done(self, name: str, done: int, total: int | None) -> None:
        assert total is None or 0 < done <= total
        self.last[name] = (done, total)

    def note(self, text: str) -> None:
        assert "\n" not in text
        self.notes.append(text)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Release]:
    place = tmp_path_factory.mktemp("published") / "model"
    return place, write_release(place)


@pytest.fixture
def release(published: tuple[Path, Release]) -> Release:
    return published[1]


@pytest.fixture
def server(published: tuple[Path, Release]) -> Iterator[FileServer]:
    found = FileServer(published[0])
    with serving(found):
        yield found


@pytest.fixture
def second(published: tuple[Path, Release]) -> Iterator[FileServer]:
    found = FileServer(published[0], tag='"2"')
    with serving(found):
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "117M"


def network(*servers: FileServer | str, **settings: Any) -> Network:
    roots = tuple(s if isinstance(s, str) else s.root for s in servers)
    return Network(**{"mirrors": roots, "backoff": 0.001, "longest_wait": 0.01, **settings})


def whole(place: Path, server: FileServer) -> bool:
    return {n: (place / n).read_bytes() for n in CHECKPOINT_FILES} == server.files


def refusal(release: Release, place: Path, settings: Network) -> str:
    with pytest.raises(DownloadFailure) as caught:
        download(release, place, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- a server that behaves


def test_every_file_arrives_and_is_not_asked_for_again(
    server: FileServer, release: Release, place: Path
) -> None:
    told = Notes()
    done = download(release, place, network(server), told)
    assert set(done.fetched) == set(CHECKPOINT_FILES)
    assert whole(place, server)
    assert {n: told.last[n] for n in server.files} == {
        n: (len(data), len(data)) for n, data in server.files.items()
    }
    assert told.last[f"check {DATA}"] == (release.data_bytes, release.data_bytes)
    assert told.notes == []
    asked = len(server.asked)
    assert asked == len(CHECKPOINT_FILES)
    assert download(release, place, network(server)).fetched == ()
    assert download(release, place, network(NOWHERE)).fetched == ()
    assert len(server.asked) == asked


def test_what_was_checked_once_is_not_read_again(
    server: FileServer, release: Release, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(release, place, network(server))
    monkeypatch.setattr("gpt2rt_export.fetch.download.fault", None)  # would be called to check
    download(release, place, network(NOWHERE))


@pytest.mark.parametrize("parallel", [1, 3])
def test_several_files_come_at_once_and_no_more_than_allowed(
    server: FileServer, release: Release, place: Path, parallel: int
) -> None:
    server.gate.clear()

    def open_when_full() -> None:
        until = time.monotonic() + 10
        while server.at_once < parallel and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # for those that should not come
        server.gate.set()

    opener = threading.Thread(target=open_when_full)
    opener.start()
    download(release, place, network(server, parallel=parallel))
    opener.join()
    assert server.most_at_once == parallel


def test_files_put_there_by_hand_are_checked_and_kept(
    server: FileServer, release: Release, place: Path, published: tuple[Path, Release]
) -> None:
    place.mkdir(parents=True)
    for name in (DATA, MERGES):
        shutil.copy(published[0] / name, place)
    done = download(release, place, network(server))
    assert set(done.fetched) == set(CHECKPOINT_FILES) - {DATA, MERGES}
    assert not server.asked_for(DATA)
    assert whole(place, server)


# ---- damage


def damaged(path: Path, at: int = 10) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


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


# ---- transfers that break off


def broken_off(server: FileServer, release: Release, place: Path, name: str, part: float) -> int:
    """Let the transfer of one file break off; returns the bytes that are kept of it."""
    server.always[name] = Fault("cut", part)
    assert name in refusal(release, place, network(server, retries=0))
    del server.always[name]
    server.asked.clear()
    assert not (place / name).exists()
    return (place / f".{name}.partial").stat().st_size


@pytest.mark.parametrize("name", [DATA, INDEX])
@pytest.mark.parametrize("validates", [True, False])
def test_a_transfer_goes_on_where_it_broke_off(
    server: FileServer, release: Release, place: Path, name: str, validates: bool
) -> None:
    """Unless the file could have become another one meanwhile: no ETag, and no known size."""
    server.validates = validates
    size = len(server.files[name])
    held = broken_off(server, release, place, name, 0.5)
    assert held == size // 2
    download(release, place, network(server))
    asked = server.asked_for(name)
    assert asked == [f"bytes={held}-" if validates or name == DATA else None]
    assert whole(place, server)


def test_cut_after_cut_costs_no_retries_as_long_as_bytes_come(
    server: FileServer, release: Release, place: Path
) -> None:
    server.always[DATA] = Fault("cut", 0.2)  # of what is left, so the last byte takes longest
    told = Notes()
    with pytest.raises(DownloadFailure):
        download(release, place, network(server, retries=1), told)
    assert len(server.asked_for(DATA)) > 20
    server.always.clear()
    download(release, place, network(server, retries=1), told)
    assert whole(place, server)
    assert any("trying again in" in note for note in told.notes)


def test_a_file_that_changed_is_fetched_from_its_start(
    server: FileServer, release: Release, place: Path
) -> None:
    broken_off(server, release, place, INDEX, 0.5)
    partial = place / f".{INDEX}.partial"
    partial.write_bytes(bytes(partial.stat().st_size))  # of the file as it was
    server.tag = '"later"'
    download(release, place, network(server, retries=0))
    assert whole(place, server)
    assert len(server.asked_for(INDEX)) == 1


@pytest.mark.parametrize("kind", ["no-range", "416", "other-part", "500", "html", "short"])
def test_a_server_that_is_bad_at_ranges_still_delivers(
    server: FileServer, release: Release, place: Path, kind: str
) -> None:
    broken_off(server, release, place, DATA, 0.5)
    server.faults = [Fault(kind)]
    download(release, place, network(server))
    assert whole(place, server)


@pytest.mark.parametrize("name", [DATA, INDEX, MERGES])
@pytest.mark.parametrize("surplus", [b"", b"more"])
def test_a_partial_that_is_whole_or_too_long(
    server: FileServer, release: Release, place: Path, name: str, surplus: bytes
) -> None:
    broken_off(server, release, place, name, 0.5)
    (place / f".{name}.partial").write_bytes(server.files[name] + surplus)
    download(release, place, network(server))
    assert whole(place, server)
    if not surplus and release.size(name):
        assert not server.asked_for(name)


def test_a_partial_of_rubbish_ends_well(server: FileServer, release: Release, place: Path) -> None:
    place.mkdir(parents=True)
    for name in CHECKPOINT_FILES:
        (place / f".{name}.partial").write_bytes(b"\0" * (len(server.files[name]) // 2))
        (place / f".{name}.partial.json").write_text("rubbish")
    download(release, place, network(server))
    assert whole(place, server)


def test_another_location_goes_on_with_what_the_first_began(
    server: FileServer, second: FileServer, release: Release, place: Path
) -> None:
    server.always[DATA] = Fault("cut", 0.5)
    download(release, place, network(server, second))
    assert server.asked_for(DATA) == [None]
    assert second.asked_for(DATA) == ["bytes=8448-"]
    assert whole(place, second)


def test_a_stall_is_told_and_ended(server: FileServer, release: Release, place: Path) -> None:
    server.faults = [Fault("stall")]
    told = Notes()
    download(release, place, network(server, stall_timeout=0.3), told)
    assert whole(place, server)
    server.always[DATA] = Fault("stall", 0.0)
    (place / DATA).unlink()
    message = refusal(release, place, network(server, stall_timeout=0.2, retries=0))
    assert f"{DATA} cannot be fetched" in message
    assert "nothing came for 0.2 s" in message


# ---- answers that are no file


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("403", "status 403 Forbidden"),
        ("404", "status 404 Not Found"),
        ("500", "status 500 Internal Server Error"),
        ("503", "status 503 Service Unavailable"),
        ("html", "a web page came in place of the file"),
        ("page", "the server has 54 bytes where the file has 16,896"),
        ("packed", "came packed as gzip, which was not asked for"),
        ("hang-up", "disconnected"),
        ("cut", "(16,896|8448|without sending complete)"),
        ("short", "the server has 8,448 bytes where the file has 16,896"),
        ("long", "the server has 25,345 bytes where the file has 16,896"),
    ],
)
def test_an_answer_that_is_no_file_is_named_and_changes_nothing(
    server: FileServer, release: Release, place: Path, kind: str, said: str
) -> None:
    server.always[DATA] = Fault(kind)
    with pytest.raises(DownloadFailure, match=said) as caught:
        download(release, place, network(server, retries=0))
    assert f"{DATA} cannot be fetched ({server.root}/124M: " in str(caught.value)
    under_both = f"; {server.root}/117M: " in str(caught.value)
    assert under_both is (kind in ("403", "404"))
    assert not (place / DATA).exists()
    assert same_files(place, server)
    del server.always[DATA]
    assert download(release, place, network(server)).fetched == (DATA,)


def test_a_file_that_is_nowhere_is_not_asked_for_again_and_again(
    server: FileServer, release: Release, place: Path
) -> None:
    server.always = {name: Fault("404") for name in (STATE, MERGES)}
    message = refusal(release, place, network(server, retries=5, backoff=60, longest_wait=60))
    assert f"{STATE}, {MERGES} cannot be fetched" in message
    assert f"put the files into {place} by hand" in message
    assert len(server.asked_for(STATE)) == 2  # under both names
    assert set(Receipt(place).untrusted()) == {STATE, MERGES, DATA}, "the others are in place"


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_are_counted_and_waits_grow(
    server: FileServer,
    release: Release,
    place: Path,
    retries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("gpt2rt_export.fetch.transfer.asyncio.sleep", sleep)
    server.always[MERGES] = Fault("500")
    told = Notes()
    settings = network(server, retries=retries, backoff=1.0, longest_wait=60.0)
    with pytest.raises(DownloadFailure, match="status 500"):
        download(release, place, settings, told)
    waits = [wait for wait in waits if wait > 0.01]
    assert len(waits) == len(told.notes) == retries
    assert len(server.asked_for(MERGES)) == retries + 1
    for number, wait in enumerate(waits):
        assert 2**number / 2 <= wait <= 2**number


def test_what_holds_for_every_file_is_told_once(release: Release, place: Path) -> None:
    told = Notes()
    with pytest.raises(DownloadFailure) as caught:
        download(release, place, network(NOWHERE, retries=2), told)
    small = ", ".join(name for name in CHECKPOINT_FILES if name != DATA)
    wanted = f"{small} cannot be fetched ({NOWHERE}/124M: All connection attempts failed); "
    assert str(caught.value).startswith(wanted)
    assert len(told.notes) == 2


# ---- locations


def test_locations_are_tried_in_order_and_under_both_names(
    server: FileServer, second: FileServer, release: Release, place: Path
) -> None:
    server.folders, second.folders = {"nothing"}, {"117M"}
    download(release, place, network(NOWHERE, server, second))
    assert whole(place, second)
    assert [path for path, _ in server.asked if path.endswith(DATA)] == [
        f"/models/124M/{DATA}",
        f"/models/117M/{DATA}",
    ]


def test_secrets_of_a_url_are_used_and_never_told(
    server: FileServer, release: Release, place: Path
) -> None:
    root = server.root.replace("://", "://someone:password@") + "/?key=hidden-key"
    server.always[DATA] = Fault("500")
    message = refusal(release, place, network(root, retries=0))
    server.always[DATA] = Fault("cut")
    refusal(release, place, network(root, retries=0))
    kept = (place / f".{DATA}.partial.json").read_text()
    for text in (message, kept):
        assert "password" not in text
        assert "hidden-key" not in text
        assert server.root in text
    assert server.asked[-1][0].endswith("?key=hidden-key")


def test_the_known_locations_are_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT2RT_MIRRORS", raising=False)
    monkeypatch.delenv("GPT2RT_OFFLINE", raising=False)
    assert Network.chosen().mirrors == catalog.DOWNLOAD_ROOTS
    assert Network.chosen(["https://a/b"]).mirrors == ("https://a/b", *catalog.DOWNLOAD_ROOTS)
    monkeypatch.setenv("GPT2RT_MIRRORS", " https://c/d  https://e ")
    assert Network.chosen(["https://a/b"]).mirrors == ("https://a/b", "https://c/d", "https://e")
    for value, offline in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("GPT2RT_OFFLINE", value)
        assert Network.chosen().offline is offline


@pytest.mark.parametrize(
    "mirror", ["http://example.org/models", "http://10.0.0.1", "http://[::2]/"]
)
def test_another_machine_is_asked_over_http_only_where_the_user_says_so(
    mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSetting, match=r"over http anyone .* --allow-http"):
        Network(mirrors=(mirror,))
    assert Network(mirrors=(mirror,), allow_http=True).mirrors == (mirror,)
    Network(mirrors=("http://localhost:1/m", "http://127.0.0.1/m", "http://[::1]:8/m"))
    for value, allowed in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("GPT2RT_ALLOW_HTTP", value)
        assert Network.chosen().allow_http is allowed


def test_a_server_that_refers_to_one_over_http_is_not_followed(
    server: FileServer, http_proxy: Proxy, release: Release, place: Path
) -> None:
    """The proxy would hear of it: it stands for the other machine."""
    server.moved = "http://10.0.0.1/models"
    settings = network(server, proxy=http_proxy.url("http"), retries=0)
    assert "it refers to http://10.0.0.1/models/124M/" in refusal(release, place, settings)
    assert not [target for target in http_proxy.targets if "10.0.0.1" in target]


def test_a_server_that_refers_to_another_place_here_is_followed(
    server: FileServer, second: FileServer, release: Release, place: Path
) -> None:
    server.moved = second.root
    download(release, place, network(server))
    assert whole(place, second)


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


@pytest.mark.parametrize(
    "mirror", ["", "example", "ftp://a/b", "http://", "https:///x", "http://a b/", "http://[::1",
               "http://a:99999/", "file:///tmp", "127.0.0.1:80", "http://a:b/", "http:\n//a"]
)  # fmt: skip
def test_a_mirror_that_is_no_url(mirror: str) -> None:
    with pytest.raises(InvalidSetting, match="not the URL of a mirror; write it like https://"):
        Network(mirrors=(mirror,))


@pytest.mark.parametrize("proxy", ["127.0.0.1:1080", "socks4://a:1", "proxy", "http://", ""])
def test_a_proxy_that_is_no_url(proxy: str) -> None:
    with pytest.raises(
        InvalidSetting, match=r"not the URL of a proxy; .* socks5://127\.0\.0\.1:1080"
    ):
        Network(proxy=proxy)


@pytest.mark.parametrize(
    "settings",
    [{"retries": -1}, {"parallel": 0}, {"stall_timeout": 0}, {"backoff": -1}, {"mirrors": ()}],
)
def test_settings_that_mean_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        Network(**settings)


# ---- proxies


@pytest.fixture
def http_proxy() -> Iterator[Proxy]:
    proxy = Proxy(HttpProxy)
    with serving(proxy):
        yield proxy


@pytest.fixture
def socks_proxy() -> Iterator[Proxy]:
    proxy = Proxy(SocksProxy)
    with serving(proxy):
        yield proxy


def test_through_an_http_proxy(
    server: FileServer, http_proxy: Proxy, release: Release, place: Path
) -> None:
    download(release, place, network(server, proxy=http_proxy.url("http")))
    assert whole(place, server)
    assert f"GET {server.root}/124M/{DATA}" in http_proxy.targets


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_through_a_socks_proxy(
    server: FileServer, socks_proxy: Proxy, release: Release, place: Path, scheme: str
) -> None:
    download(release, place, network(server, proxy=socks_proxy.url(scheme)))
    assert whole(place, server)
    assert set(socks_proxy.targets) == {f"127.0.0.1:{server.server_address[1]}"}


def test_the_proxy_of_the_environment(
    server: FileServer,
    socks_proxy: Proxy,
    release: Release,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", socks_proxy.url("socks5"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    download(release, place, network(server))
    assert socks_proxy.targets == []
    (place / MERGES).unlink()
    monkeypatch.delenv("NO_PROXY")
    download(release, place, network(server))
    assert len(socks_proxy.targets) == 1
    monkeypatch.setenv("ALL_PROXY", "socks4://nonsense")
    (place / MERGES).unlink()
    with pytest.raises(InvalidSetting, match="a proxy of the environment cannot be used"):
        download(release, place, network(server))


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_an_encrypted_location_through_a_proxy(
    server: FileServer,
    http_proxy: Proxy,
    socks_proxy: Proxy,
    release: Release,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    import ssl

    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    root = server.root.replace("http:", "https:")
    proxy = {"http": http_proxy, "socks5": socks_proxy}[scheme]
    settings = network(root, proxy=proxy.url(scheme), retries=0)
    assert "certificate" in refusal(release, place, settings).lower()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    transfer.certificates.cache_clear()
    try:
        download(release, place, settings)
    finally:
        transfer.certificates.cache_clear()
    assert whole(place, server)
    target = f"127.0.0.1:{server.server_address[1]}"
    assert {found.removeprefix("CONNECT ") for found in proxy.targets} == {target}


HEAD = b"HTTP/1.1 "
NONSENSE = [
    b"",
    b"\x00" * 50,
    Random(7).randbytes(100),
    b"\x05",
    b"\x05\xff",
    b"\x05\x00\xff\xff\xff\xff\xff\xff",
    b"A" * 200_000,
    HEAD,
    HEAD + b"400 Bad\r\n\r\n",
    HEAD + b"999 \r\n\r\n",
    HEAD + b"100 Continue\r\n\r\n",
    HEAD + b"304 Not Modified\r\n\r\n",
    HEAD + b"302 Found\r\nLocation: http://[::1/\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"302 Found\r\nLocation: /models\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"206 Partial\r\nContent-Range: bytes 0-2/3\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"206 Partial\r\nContent-Range: bytes\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"206 Partial\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"416 None\r\nContent-Range: bytes */x\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"200 OK\r\nContent-Length: -5\r\n\r\nabc",
    HEAD + b"200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\nabc",
    HEAD + b"200 OK\r\nContent-Length: 68719476736\r\n\r\nabc",
    HEAD + b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"200 OK\r\n\r\nabc",
    HEAD + b'200 OK\r\nETag: "\xff"\r\nLast-Modified: \xe9\r\nContent-Length: 77\r\n\r\nabc',
    HEAD + b"503 X\r\nRetry-After: Wed, 21 Oct 9999 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"503 X\r\nRetry-After: " + b"9" * 400 + b"\r\nContent-Length: 0\r\n\r\n",
    HEAD + b"503 X\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("says", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_from_a_server_or_a_proxy_is_one_clear_line(
    release: Release, place: Path, says: bytes
) -> None:
    parrot = Parrot(says)
    with serving(parrot):
        host = f"127.0.0.1:{parrot.server_address[1]}"
        for mirror, proxy in (
            (f"http://{host}/models", None),
            ("http://10.0.0.1/models", f"http://{host}"),
            ("https://10.0.0.1/models", f"http://{host}"),
            ("http://10.0.0.1/models", f"socks5://{host}"),
        ):
            settings = network(mirror, proxy=proxy, retries=1, allow_http=True)
            message = refusal(release, place, settings)
            assert f" cannot be fetched ({mirror}/124M: " in message
            assert not [path for path in place.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_is_none_is_named_as_the_reason(
    server: FileServer, release: Release, place: Path, scheme: str
) -> None:
    """A web server where a proxy was expected, and nothing at all."""
    server.always = {name: Fault("403") for name in server.files}
    for proxy in (
        server.root.removesuffix("/models").replace("http", scheme),
        f"{scheme}://127.0.0.1:9",
    ):
        settings = network(
            "http://10.0.0.1/models", proxy=proxy, retries=0, stall_timeout=0.3, allow_http=True
        )
        assert "cannot be fetched (http://10.0.0.1/models/124M: " in refusal(
            release, place, settings
        )


# ---- offline


def test_offline_needs_nothing_where_all_is_there(
    server: FileServer, release: Release, place: Path, published: tuple[Path, Release]
) -> None:
    offline = network(server, offline=True)
    message = refusal(release, place, offline)
    assert f"{', '.join(CHECKPOINT_FILES)} missing" in message
    assert not place.exists()
    shutil.copytree(published[0], place)
    (place / MERGES).unlink()
    damaged(place / DATA)
    message = refusal(release, place, offline)
    assert f"{place}: {MERGES} missing; {DATA}: damaged in model/h0/attn/c_attn/b" in message
    assert "`gpt2rt download 117M` with a network" in message
    for name in (MERGES, DATA):
        shutil.copy(published[0] / name, place)
    assert download(release, place, offline).fetched == ()
    assert server.asked == []


# ---- the disk


def test_too_little_space_is_told_before_anything_is_asked(
    server: FileServer, release: Release, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000_000))
    large = replace(release, name="1542M", data_bytes=6_230_444_800)
    message = refusal(large, place, network(server))
    assert "1542M needs 6,234.6 MB, 3,000.0 MB are free; make room" in message
    assert server.asked == []
    download(release, place, network(server))


def test_a_disk_that_fills_up_keeps_what_came(
    server: FileServer, release: Release, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full after half of the data file."""
    real = Path.open

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 8000:
                super().write(data[: 8000 - self.tell()])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def open_(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        return (
            Full(path, mode)
            if DATA in path.name and mode == "ab"
            else real(path, mode, *rest, **named)
        )

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_)
        message = refusal(release, place, network(server))
    assert "no space left, " in message
    assert "what came is kept" in message
    assert download(release, place, network(server)).fetched == (DATA,)
    assert server.asked_for(DATA)[-1] == "bytes=8000-"
    assert whole(place, server)


def test_a_place_that_cannot_be_written(
    server: FileServer, release: Release, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    message = refusal(release, tmp_path / "file" / "117M", network(server))
    assert "cannot be written (" in message
    assert "GPT2RT_HOME" in message


def test_a_place_without_permission(server: FileServer, release: Release, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("a user who may write everywhere")
    assert "Permission denied" in refusal(release, tmp_path / "locked" / "117M", network(server))


# ---- chance


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_random_faults(server: FileServer, release: Release, place: Path, seed: int) -> None:
    fault_sequence(server, release, place, Random(f"fault {seed}"))


@pytest.mark.slow
def test_kills_at_random_moments(
    server: FileServer, release: Release, tmp_path: Path, place: Path
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    from killable import killer, trial

    with killer(release, tmp_path) as kills:
        killed = number = 0
        while killed < KILLS:
            target = place.with_name(f"{number}")
            killed += trial(kills, server, release, target, Random(f"kill {number}"))
            number += 1


# ---- the command

RUN = """
import pickle, sys
import gpt2rt.bundles.catalog as catalog
catalog.RELEASES = (pickle.loads(open(sys.argv.pop(1), "rb").read()),)
from gpt2rt.cli import main
main()
"""


@pytest.fixture
def start(tmp_path: Path, server: FileServer, release: Release) -> Any:
    """Starts the real command with the small release as 117M."""
    pickled = tmp_path / "release.pickle"
    pickled.write_bytes(pickle.dumps(release))
    environment = {**os.environ, "GPT2RT_HOME": str(tmp_path), "GPT2RT_MIRRORS": server.root}
    command = [sys.executable, "-c", RUN, str(pickled)]

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.slow
def test_two_processes_at_once_share_one_download(
    server: FileServer, place: Path, start: Any
) -> None:
    server.gate.clear()
    first = start("download", "117M", "--json")
    until = time.monotonic() + 30
    while not server.asked and time.monotonic() < until:
        time.sleep(0.01)
    second = start("download", "117M", "--json")
    waits = second.stderr.readline()
    assert waits == f"another process is downloading into {place}: waiting for it\n"
    server.gate.set()
    ended = [process.communicate(timeout=60) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ended
    assert [len(json.loads(out)["fetched"]) for out, _ in ended] == [7, 0]
    assert len(server.asked) == len(CHECKPOINT_FILES)
    assert whole(place, server)


@pytest.mark.slow
def test_ctrl_c_ends_a_download_at_once_and_keeps_what_came(
    server: FileServer, release: Release, place: Path, start: Any
) -> None:
    server.always[DATA] = Fault("stall")
    process = start("download", "124M")
    partial = place / f".{DATA}.partial"
    until = time.monotonic() + 30
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    assert partial.stat().st_size == release.data_bytes // 2
    del server.always[DATA]
    assert download(release, place, network(server)).fetched == (DATA,)
    assert server.asked_for(DATA)[-1] == f"bytes={release.data_bytes // 2}-"


@pytest.fixture
def small_117m(release: Release, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "RELEASES", (release,))
    monkeypatch.setenv("GPT2RT_MIRRORS", server.root)


@pytest.mark.usefixtures("small_117m")
def test_the_command_says_where_the_files_are(
    command: Command, server: FileServer, home: Path
) -> None:
    place = home / "checkpoints" / "117M"
    ended = command("download", "124M")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        f"{place}: 117M, 0.0 MB, all checked\n"
        f"By the mirror's own word, as no sha256 is known: {DATA}, {INDEX}, {META}\n"
    )
    record = command("download", "117m", "--json", "--offline").records[0]
    assert record == {
        "model": "117M",
        "directory": str(place),
        "bytes": sum(map(len, server.files.values())),
        "files": {name: len(server.files[name]) for name in CHECKPOINT_FILES},
        "fetched": [],
        "unpinned": [DATA, INDEX, META],
    }


@pytest.mark.usefixtures("small_117m")
def test_the_command_takes_mirrors_and_a_proxy(
    command: Command, server: FileServer, second: FileServer, socks_proxy: Proxy
) -> None:
    second.faults = [Fault("404")]
    proxy = socks_proxy.url("socks5")
    ended = command("download", "117M", "--mirror", second.root, "--proxy", proxy, "--json")
    assert ended.code == 0
    assert len(second.asked) == 7 + 1  # a file was there under the other name
    assert server.asked == []
    assert socks_proxy.targets


@pytest.mark.usefixtures("small_117m")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("118M",), 1, "unknown model '118M'"),
        (("demo",), 1, "demo is embedded: there is nothing to download"),
        (("117M", "--mirror", "somewhere"), 2, "'somewhere' is not the URL of a mirror"),
        (("117M", "--proxy", "127.0.0.1:1080"), 2, "write it like http://127.0.0.1:3128 or socks5"),
        (("117M", "--offline"), 1, "model.ckpt.meta, vocab.bpe missing; offline"),
    ],
)
def test_the_command_told_nonsense(
    command: Command, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = command("download", *arguments)
    assert ended.code == code
    assert said in ended.in_one_line()


@pytest.mark.usefixtures("small_117m")
def test_an_export_finds_what_was_downloaded(
    home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow")
    from gpt2rt_export import pipeline
    from gpt2rt_export.progress import NoProgress
    from gpt2rt_export.recipe import Recipe

    recipe = Recipe("117M")
    found = pipeline.read_checkpoint(recipe, NoProgress())
    assert found.origin == str(home / "checkpoints" / "117M")
    wte = found.read("model/wte")
    monkeypatch.setenv("GPT2RT_MIRRORS", NOWHERE)
    again = pipeline.read_checkpoint(recipe, NoProgress())
    assert again.read("model/wte").tobytes() == wte.tobytes()
    assert len(server.asked) == len(CHECKPOINT_FILES)


# ---- the real files


def real(folder: str, name: str) -> Path:
    path = SHARED / folder / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("gpt2-117M-meta", STATE),
        ("gpt2-117M-meta", HPARAMS),
        ("gpt2-117M-meta", INDEX),
        ("gpt2-vocab", ENCODER),
        ("gpt2-vocab", MERGES),
    ],
)
def test_the_real_files_are_found_good(folder: str, name: str) -> None:
    path = real(folder, name)
    small, *larger = catalog.RELEASES
    assert fault(name, path, small, path.parent) is None
    unknown = replace(small, known={})
    if folder == "gpt2-117M-meta":
        assert fault(name, path, unknown, path.parent) is None, "by what it holds, too"
    for release in larger:
        own = name in (HPARAMS, INDEX)
        assert bool(fault(name, path, release, path.parent)) is own


def test_the_sizes_of_the_releases_are_those_of_their_shapes() -> None:
    for release in catalog.RELEASES:
        shapes = release.hparams.variables().values()
        assert release.size(DATA) == sum(4 * math.prod(shape) for shape in shapes)
