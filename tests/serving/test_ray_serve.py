"""The server in replicas on a cluster of Ray, a real one of this machine, asked by real clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import openai
import psutil
import pytest
from openai import OpenAI

pytest.importorskip("ray")

from command_line import finish, posix, start
from gpt2rt import GPT2, SamplingParams, Stopping
from serving import fault, free_port, url_in, wait_until

pytestmark = [pytest.mark.slow, posix, pytest.mark.xdist_group("ray")]

MODEL = "tiny-int8"
REPLICA = "ray::ServeReplica"
TOKENS = {**os.environ, "RAY_AUTH_MODE": "token"}  # as clusters of one machine want them
LONG = 300.0  # seconds that a cluster may take to start


class Served:
    """A command that serves on a cluster of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        options = ("--ray", "--port", free_port())
        self.process = start("serve", *arguments, *options, stdout=subprocess.DEVNULL)
        self.key = "key"
        try:
            self.url = url_in(self.process)
        except BaseException:
            self.process.kill()
            raise

    def client(self, retries: int = 0, headers: dict[str, str] | None = None) -> OpenAI:
        return OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.key,
            max_retries=retries,
            timeout=LONG,
            default_headers=headers,
        )

    def http(self) -> httpx2.Client:
        key = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(base_url=self.url, timeout=LONG, headers=key)

    def workers(self) -> list[psutil.Process]:
        """The processes of its replicas."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error, IndexError):  # it has just ended
                found += [process] * process.cmdline()[0].startswith(REPLICA)
        return found

    def counts(self, name: str) -> dict[str, float]:
        """Replica -> what it counts as `name`, over all labels."""
        found: dict[str, float] = {}
        with self.http() as client:
            text = client.get("/metrics").text
        for labels, value in re.findall(rf"^gpt2rt_{name}{{(.*)}} (\S+)$", text, re.MULTILINE):
            (replica,) = re.findall(r'replica="(\w+)"', labels)
            found[replica] = found.get(replica, 0.0) + float(value)
        return found

    def counts_of_both(self, name: str) -> dict[str, float]:
        """Those of two replicas; one that is slow to answer is asked again."""
        found: dict[str, float] = {}

        def both() -> bool:
            found.clear()
            found.update(self.counts(name))
            return len(found) == 2

        wait_until(both)
        return found


@pytest.fixture(scope="module")
def served(tiny_bundles: dict[str, object]) -> Iterator[Served]:
    """Two replicas, a thread each."""
    model = tiny_bundles["int8"].directory  # type: ignore[attr-defined]
    arguments = ("--replicas", "2", "--threads", "1", "--slots", "8", "--sessions")
    found = Served(model, *arguments, "--api-key", "key")
    yield found
    found.process.kill()
    found.process.communicate()


def text_of(gpt2: GPT2, seed: int, length: int = 8) -> str:
    return gpt2.generate("ab", SamplingParams(seed=seed), Stopping(length)).text


def test_a_text_is_that_of_the_library(served: Served, gpt2: GPT2) -> None:
    with served.client() as client:
        made = client.completions.create(model=MODEL, prompt="ab", seed=4, max_tokens=8)
        assert made.choices[0].text == text_of(gpt2, 4)
        assert [model.id for model in client.models.list()] == [MODEL]


def test_a_stream_passes_as_it_comes(served: Served, gpt2: GPT2) -> None:
    def parts() -> list[str]:
        body = {"model": MODEL, "prompt": "ab", "seed": 4, "max_tokens": 40}
        with (
            served.client() as client,
            client.completions.create(**body, stream=True) as stream,  # type: ignore[call-overload]
        ):
            found = [part.choices[0].text for part in stream]
        assert "".join(found) == text_of(gpt2, 4, 40)
        return found

    wait_until(lambda: len(parts()) > 5)  # fewer where a busy machine lets the steps get ahead


def test_errors_and_keys_are_those_of_the_server(served: Served) -> None:
    with served.client() as client:
        with pytest.raises(openai.NotFoundError, match=MODEL):
            client.completions.create(model="nobody", prompt="ab")
        with pytest.raises(openai.BadRequestError) as raised:
            client.completions.create(model=MODEL, prompt=[1] * 49)
        assert raised.value.code == "context_length_exceeded"
        with pytest.raises(openai.UnprocessableEntityError):
            client.completions.create(model=MODEL, prompt="a", n=10**9)
    with httpx2.Client(base_url=served.url) as nobody:
        assert fault(nobody.get("/v1/models")) == (401, "invalid_api_key")
        assert nobody.get("/").status_code == nobody.get("/ready").status_code == 200
    with served.http() as client:
        assert fault(client.post("/v1/completions", content=b"{")) == (415, "not_json")
        body = b'"' + b"a" * (1 << 20) + b'"'
        kind = {"Content-Type": "application/json"}
        assert fault(client.post("/v1/score", content=body, headers=kind)) == (
            413,
            "body_too_large",
        )


def test_an_answer_has_one_id_which_may_be_the_clients(served: Served) -> None:
    with served.http() as client:
        assert len(client.get("/ready").headers.get_list("x-request-id")) == 1
        answer = client.get("/ready", headers={"X-Request-Id": "mine"})
        assert answer.headers.get_list("x-request-id") == ["mine"]


def test_who_leaves_frees_its_slots(served: Served) -> None:
    with served.client() as client:
        for _ in range(4):
            stream = client.completions.create(
                model=MODEL, prompt="ab", n=8, max_tokens=40, stream=True
            )
            next(iter(stream))
            stream.close()
    wait_until(lambda: sum(served.counts_of_both("running").values()) == 0)


def test_replicas_share_the_requests_and_count_them(served: Served) -> None:
    before = served.counts_of_both("tokens_total")

    def ask(seed: int) -> None:
        with served.client() as client:
            client.completions.create(model=MODEL, prompt="ab", seed=seed, max_tokens=5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(32)))
    after = served.counts_of_both("tokens_total")
    added = [after[name] - before[name] for name in before]
    assert sum(added) == 32 * 5
    assert min(added) > 0


def test_a_session_stays_at_its_replica(served: Served) -> None:
    for session in ("one", "two", "three"):
        before = served.counts_of_both("tokens_total")
        with served.client(headers={"X-Session-Id": session}) as client:
            for seed in range(6):
                client.completions.create(model=MODEL, prompt="ab", seed=seed, max_tokens=5)
        after = served.counts_of_both("tokens_total")
        assert sorted(after[name] - before[name] for name in before) == [0, 30]


class Asking:
    """Clients that ask for texts until told to stop; `wrong` are answers that may not be."""

    def __init__(self, served: Served, gpt2: GPT2) -> None:
        self.answers = 0
        self.lost = 0  # streams that broke off, and requests that nobody took up again
        self.wrong: list[object] = []
        self._served = served
        self._wanted = {seed: text_of(gpt2, seed, 40) for seed in range(8)}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=[seed, seed % 2 == 0]) for seed in range(8)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int, stream: bool) -> None:
        settings = {"model": MODEL, "prompt": "ab", "seed": seed, "max_tokens": 40}
        with self._served.client(retries=0 if stream else 4) as client:
            while not self._stop.is_set():
                try:
                    if stream:
                        parts = client.completions.create(**settings, stream=True)  # type: ignore[call-overload]
                        text = "".join(part.choices[0].text for part in parts)
                    else:
                        text = client.completions.create(**settings).choices[0].text  # type: ignore[call-overload]
                except openai.InternalServerError as error:
                    self.lost += 1
                    self.wrong += [error] * (not stream or error.status_code != 500)
                except (openai.APIConnectionError, httpx2.TransportError) as error:
                    self.lost += 1
                    self.wrong += [error] * (not stream)
                except Exception as error:
                    self.wrong.append(error)
                else:
                    self.wrong += [text] * (text != self._wanted[seed])
                self.answers += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive()


def test_a_replica_that_is_killed_is_replaced_and_others_go_on(served: Served, gpt2: GPT2) -> None:
    asking = Asking(served, gpt2)
    try:
        wait_until(lambda: asking.answers > 20)
        before = set(served.workers())
        killed = min(before, key=lambda worker: worker.pid)
        killed.kill()
        wait_until(lambda: len(set(served.workers()) - {killed}) == 2, LONG)
        wait_until(lambda: len(served.counts("tokens_total")) == 2, LONG)
    finally:
        asking.stop()
    assert asking.wrong == []
    assert asking.lost <= 8  # one each, at most


def test_a_cluster_serves_once(served: Served, model: Path) -> None:
    address = address_of(served)
    again = finish(start("serve", model, "--ray", address, env=TOKENS))
    assert again.code == 2
    assert "serves already" in again.err
    assert len(again.err.splitlines()) == 1


def port_of(served: Served) -> str:
    return served.url.rpartition(":")[2]


def address_of(served: Served) -> str:
    """The address of the cluster: that of its process for global state."""
    for process in psutil.Process(served.process.pid).children(recursive=True):
        if found := re.search(r"--gcs-address=(\S+:\d+)", " ".join(process.cmdline())):
            return found[1]
    raise AssertionError("no cluster")


def test_a_file_for_serve_deploy_is_deployed(served: Served, model: Path, tmp_path: Path) -> None:
    """`serve run` gives it to the cluster as `serve deploy` does, which needs a dashboard."""
    yaml = pytest.importorskip("yaml")
    (tmp_path / "keys").write_text("other\n")
    file = tmp_path / "serve.yaml"
    options = ("--slots", "3", "--threads", "1", "--api-key-file", tmp_path / "keys")
    written = finish(start("serve", model, "--ray", "--write-config", file, *options))
    assert written.code == 0, written.err
    config = yaml.safe_load(file.read_text("utf-8"))
    config["applications"][0]["args"]["patience"] = 1e6  # for the half request of the next test
    file.write_text(yaml.safe_dump(config), "utf-8")
    command = [str(Path(sys.executable).with_name("serve")), "run", str(file), "--address"]
    environment = {**TOKENS, "PYTHONPATH": os.pathsep.join(sys.path)}
    deploying = subprocess.Popen(
        [*command, address_of(served)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        served.key = "other"
        wait_until(lambda: list(served.counts("slots").values()) == [3.0], LONG)
    finally:
        deploying.kill()
        deploying.communicate()


def test_a_signal_ends_it_when_requests_have_ended(served: Served) -> None:
    """The last test of this server, whose key is that of the file above."""
    body = json.dumps({"model": MODEL, "prompt": "ab", "max_tokens": 5}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {served.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(port_of(served))), LONG) as half:
        half.sendall(head.encode() + body[:9])
        wait_until(lambda: sum(served.counts("requests_in_flight").values()) > 1)
        served.process.send_signal(signal.SIGTERM)

        def ending() -> bool:
            with served.http() as client:
                answer = client.get("/v1/models")
            return answer.status_code == 503 and fault(answer) == (503, "draining")

        wait_until(ending)
        half.sendall(body[9:])
        assert half.recv(12) == b"HTTP/1.1 200"
    ended = finish(served.process)
    assert ended.code == 0
    assert "gpt2rt:" not in ended.err  # Ray tells there of the worker that was killed
    assert "Traceback" not in ended.err
