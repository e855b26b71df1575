"""Keys, host names and settings: who may ask a server what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from gpt2rt.errors import InvalidSetting
from gpt2rt.serving.settings import ServeSettings
from serving import fault, in_process, running, wait_until


def test_a_key_opens_all_but_what_is_open(quick: ServeSettings) -> None:
    with in_process(replace(quick, keys=("one", "two"))) as client:
        for path in ("/health", "/ready"):
            assert client.get(path).status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            for shown in ("", "Bearer three", "Bearer", "Basic one", "one", "Bearer onetwo", "é"):
                told = client.get(path, headers={b"Authorization": shown.encode()})
                assert fault(told) == (401, "invalid_api_key")
                assert told.headers["www-authenticate"] == "Bearer"
        for key in ("one", "two"):
            told = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert told.status_code == 200
        assert fault(client.post("/health", json={}))[0] == 401


def test_the_log_names_a_key_without_telling_it(quick: ServeSettings) -> None:
    with running(replace(quick, keys=("secret",))) as server:
        server.client(headers={"Authorization": "Bearer secret"}).get("/v1/models")
        wait_until(lambda: bool(server.lines()))
        assert server.lines()[0]["client"].startswith("key-")
        assert "secret" not in server.log.getvalue()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST:1"])
def test_this_machine_has_these_names(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", "", "10.0.0.1"])
def test_a_page_of_another_site_cannot_lead_its_name_here(client: TestClient, host: str) -> None:
    assert fault(client.get("/health", headers={"Host": host})) == (400, "wrong_host")


def test_a_proxy_may_pass_on_its_name_where_keys_are_asked_for(quick: ServeSettings) -> None:
    with in_process(replace(quick, keys=("secret",))) as client:
        headers = {"Host": "gpt2.example.org", "Authorization": "Bearer secret"}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_server_for_others_is_asked_by_any_name(quick: ServeSettings) -> None:
    with in_process(replace(quick, host="0.0.0.0")) as client:
        assert client.get("/health", headers={"Host": "gpt2.example"}).status_code == 200


# ---- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"port": -1},
        {"slots": 0},
        {"queue": -1},
        {"timeout": float("nan")},
        {"timeout": -1.0},
        {"drain": float("inf")},
        {"memory": 0},
        {"keys": ("",)},
        {"keys": ("a b",)},
        {"keys": ("é",)},
        {"body_bytes": 0},
        {"host": 1},
    ],
)
def test_settings_that_mean_nothing(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        ServeSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.9.1", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("gpt2.example", False)],
)  # fmt: skip
def test_who_can_reach_the_server(host: str, loopback: bool) -> None:
    assert ServeSettings(host=host).loopback == loopback
