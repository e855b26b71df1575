"""Models of the Hugging Face Hub, from a stand-in on this machine: no test asks the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("huggingface_hub.constants")  # before a test sets HF_ENDPOINT

from checkpoints import huggingface_tensors, save_huggingface, values_of
from command_line import Command
from gpt2rt import HParams
from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import DownloadFailure, InvalidSetting, MissingExtra
from gpt2rt_export.fetch import hub
from gpt2rt_export.fetch.hub import HubModel, fetch
from gpt2rt_export.fetch.network import Network
from models import LargerWeights

SHAPE = HParams(n_vocab=300, n_ctx=20, n_embd=24, n_head=3, n_layer=2)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = f"hf://someone/tiny@{COMMIT}"
TINY = HubModel("someone", "tiny")


class StandIn(ThreadingHTTPServer):
    """Answers as the Hub does for the model `someone/tiny`, whose files lie in a directory."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswer)
        self.files = {path.name: path.read_bytes() for path in directory.iterdir()}
        self.commit = COMMIT
        self.fetched: list[str] = []
        self.failure: tuple[int, str] | None = None  # status, and the Hub's own error code

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubAnswer(BaseHTTPRequestHandler):
    server: StandIn

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.server.failure is not None:
            status, code = self.server.failure
            return self._send(status, b"{}", {"X-Error-Code": code})
        if path.startswith("/api/models/someone/tiny/revision/"):
            if path.rpartition("/")[2] not in ("main", "v1", COMMIT):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return self._json({"id": "someone/tiny", "sha": self.server.commit, "siblings": [
                {"rfilename": name} for name in self.server.files]})  # fmt: skip
        if path.startswith("/api/models/someone/tiny/tree/"):
            return self._json([self._entry(name) for name in self.server.files])
        prefix = f"/someone/tiny/resolve/{COMMIT}/"
        body = self.server.files.get(path.removeprefix(prefix))
        if not path.startswith(prefix) or body is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if self.command == "GET":
            self.server.fetched.append(path.removeprefix(prefix))
        tag = f'"{hashlib.sha1(body).hexdigest()}"'
        return self._send(200, body, {"ETag": tag, "X-Repo-Commit": COMMIT})

    def _entry(self, name: str) -> dict[str, Any]:
        body = self.server.files[name]
        oid = hashlib.sha1(body).hexdigest()
        return {"type": "file", "path": name, "size": len(body), "oid": oid}

    def _json(self, body: object) -> None:
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    tensors = huggingface_tensors(values_of(LargerWeights(SHAPE, seed=5)))
    folder = save_huggingface(tmp_path / "published", SHAPE, tensors)
    for name in ("README.md", "pytorch_model.bin", "training_args.bin", "tf_model.h5"):
        (folder / name).write_text("not to be fetched")
    server = StandIn(folder)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    monkeypatch.delenv("GPT2RT_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def refusal(model: HubModel = TINY, network: Network | None = None) -> str:
    with pytest.raises(DownloadFailure) as caught:
        fetch(model, network)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{model}: ")
    return str(caught.value)


@pytest.mark.slow
def test_only_what_an_export_reads_is_fetched_and_once(stand_in: StandIn) -> None:
    found = fetch(TINY)
    assert str(found.model) == ADDRESS
    names = {"config.json", "model.safetensors", "vocab.json", "merges.txt"}
    assert set(stand_in.fetched) == names
    assert {path.name for path in found.directory.iterdir()} == names
    assert (found.directory / "config.json").read_bytes() == stand_in.files["config.json"]
    fetch(HubModel("someone", "tiny", "v1"))
    assert len(stand_in.fetched) == len(names), "the cache holds them"


@pytest.mark.parametrize(
    ("kept", "wanted"),
    [
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["ckpt.pt", "meta.pkl", "train.py"], ["meta.pkl", "ckpt.pt"]),
        (
            ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "x.safetensors"],
            ["model-00001-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (["a/model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_the_best_format_that_is_there_is_taken(kept: list[str], wanted: list[str]) -> None:
    assert hub.files_to_fetch(kept, TINY) == wanted


def test_a_model_without_weights_is_refused(stand_in: StandIn) -> None:
    stand_in.files = {"README.md": b"", "model.gguf": b""}
    assert "has no weights that gpt2rt reads" in refusal()
    assert "README.md, model.gguf" in refusal()


@pytest.mark.parametrize(
    ("status", "code", "fact"),
    [
        (403, "GatedRepo", "ask for it at http://127.0.0.1:"),
        (401, "RepoNotFound", "no such model, or a private one"),
        (404, "RepoNotFound", "no such model, or a private one"),
        (500, "", "the Hub answers 500; try again later"),
        (429, "", "the Hub answers 429"),
    ],
)
def test_what_the_hub_refuses_is_said(status: int, code: str, fact: str, stand_in: StandIn) -> None:
    stand_in.failure = status, code
    assert fact in refusal()


def test_a_revision_that_is_not_there(stand_in: StandIn) -> None:
    assert "has no revision v9" in refusal(HubModel("someone", "tiny", "v9"))


def test_a_commit_that_is_none_is_not_believed(stand_in: StandIn) -> None:
    stand_in.commit = "../../etc"
    assert "names no commit" in refusal()


def test_nobody_answers(stand_in: StandIn) -> None:
    stand_in.shutdown()
    stand_in.server_close()
    assert "cannot be fetched" in refusal()
    assert "name its directory" in refusal()


def test_offline_the_cache_is_all_there_is(stand_in: StandIn) -> None:
    offline = Network(offline=True)
    assert "offline, nothing is fetched, and it is not in the cache" in refusal(TINY, offline)
    online = fetch(TINY)
    stand_in.fetched.clear()
    for revision in ("main", COMMIT):
        assert fetch(HubModel("someone", "tiny", revision), offline) == online
    assert f"only {COMMIT}" in refusal(HubModel("someone", "tiny", "v9"), offline)
    assert stand_in.fetched == []


@pytest.mark.parametrize(
    "text",
    [
        *("hf://", "hf://gpt2", "hf:a/b", "hf://a/b/c", "hf://a/b@", "hf://../b", "hf://a/.."),
        *(
            "hf://a/b@../c",
            "hf://a/b@v..1",
            "hf://a b/c",
            "hf://a/b\x1b[2J",
            "hf://a/b?x",
            "hf:///b",
        ),
        *("hf://" + "a" * 200 + "/b", "hf://a/b@/x", "hf://-a/b", "hf://a/b#x", "HF://a/b\n"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="no model of the Hugging Face Hub") as caught:
        HubModel.parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["hf://a/b@main", "hf://A-1/b_2.c@refs/pr/3", ADDRESS])
def test_an_address_reads_back(text: str) -> None:
    assert str(HubModel.parse(text)) == text


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "gpt2rt\[hub\]"'):
        fetch(TINY)


@pytest.mark.slow
def test_a_model_is_exported_with_its_commit_and_verified_by_it(
    stand_in: StandIn, command: Command, home: Path
) -> None:
    ended = command("export", "hf://someone/tiny")
    assert ended.code == 0, ended.err
    bundle = Bundle.open(home / "bundles" / "tiny-fp32")
    assert bundle.manifest.origin.endswith(f", from {ADDRESS}")
    assert command("verify", "tiny-fp32").code == 0
    stand_in.failure = 404, "RepoNotFound"
    assert "no such model" in command("verify", "tiny-fp32").err
    assert "no such model" in command("export", "hf://a/b").in_one_line()
    assert "write hf://owner/model" in command("export", "hf://a").in_one_line()
    assert "leave --checkpoint" in command("export", "hf://a/b", "--random-weights").in_one_line()
    assert "add --output DIR" in command("export", "hf://a/gpt2").in_one_line()
