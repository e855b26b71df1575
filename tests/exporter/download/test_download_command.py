"""`gpt2rt download` as a process: locks, Ctrl-C, mirrors, what it prints."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("google_crc32c")

from command_line import Command
from downloads import NOWHERE, network, whole
from file_server import (
    Fault,
    FileServer,
    Proxy,
)
from gpt2rt.bundles import catalog
from gpt2rt.bundles.catalog import (
    CHECKPOINT_FILES,
    DATA,
    INDEX,
    META,
    Release,
)
from gpt2rt_export.fetch.download import download

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
    until = time.monotonic() + 300
    while not server.asked and time.monotonic() < until:
        time.sleep(0.01)
    second = start("download", "117M", "--json")
    waits = second.stderr.readline()
    assert waits == f"another process is downloading into {place}: waiting for it\n"
    server.gate.set()
    ended = [process.communicate(timeout=300) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ended
    assert [len(json.loads(out)["fetched"]) for out, _ in ended] == [7, 0]
    assert len(server.asked) == len(CHECKPOINT_FILES)
    assert whole(place, server)


@pytest.mark.slow
def test_ctrl_c_ends_a_download_at_once_and_keeps_what_came(
    server: FileServer, release: Release, place: Path, start: Any
) -> None:
    server.always[DATA] = Fault("stall")
    server.step, server.pause = 1000, 0.001  # pieces smaller than a file's buffer
    process = start("download", "124M")
    partial = place / f".{DATA}.partial"
    until = time.monotonic() + 300
    half = release.data_bytes // 2
    while not (partial.is_file() and partial.stat().st_size == half) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (130, "", "")
    assert partial.stat().st_size == half
    del server.always[DATA]
    assert download(release, place, network(server)).fetched == (DATA,)
    assert server.asked_for(DATA)[-1] == f"bytes={half}-"


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
