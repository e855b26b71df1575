"""What a server tells of itself: health, models, errors, request ids, metrics."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from fastapi.testclient import TestClient

from gpt2rt.generation.batch_statistics import BatchStatistics
from gpt2rt.serving.metrics import OF_A_MODEL
from gpt2rt.serving.settings import ServeSettings
from serving import RunningServer, fault, in_process, wait_until


def test_health_readiness_and_models(server: RunningServer, client: TestClient) -> None:
    for asking in (server.client(), client):
        assert asking.get("/health").json() == {"status": "ok"}
        assert asking.get("/ready").json() == {"status": "ready"}
        listed = asking.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == ["tiny-int8", "tiny-fp32"]
        assert asking.get("/v1/models/tiny-fp32").json() == listed["data"][1]
        assert (
            listed["data"][0].items() >= {"object": "model", "context": 48, "loaded": True}.items()
        )


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_head_tells_what_an_answer_would(server: RunningServer, path: str) -> None:
    with server.client() as asking:
        head, whole = asking.head(path), asking.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]
        assert asking.get(path).status_code == 200  # on the same connection


def test_paths_are_prepared_before_the_first_request(server: RunningServer) -> None:
    assert server.app.openapi_schema is not None


def test_errors_are_in_openais_form(client: TestClient) -> None:
    missing = client.get("/v1/models/gpt-9")
    assert fault(missing) == (404, "model_not_found")
    assert "tiny-int8, tiny-fp32" in missing.text
    assert fault(client.get("/nowhere")) == (404, "no_such_path")
    assert fault(client.put("/health")) == (405, "wrong_method")
    assert client.put("/health").headers["allow"] == "GET"


def test_errors_are_described(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    for path in told["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            assert {"400", "401", "404", "408", "413", "415", "422", "429", "503"} <= set(answers)
            schema = answers["422"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorReply"}


def test_every_request_has_an_id_in_its_answer_and_in_the_log(server: RunningServer) -> None:
    ids = [server.client().get("/health").headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    wait_until(lambda: set(ids) <= {line["id"] for line in server.lines()})


def test_metrics_count_requests_by_declared_paths(serve_settings: ServeSettings) -> None:
    with in_process(replace(serve_settings, on_demand=True)) as client:
        client.get("/v1/models/tiny-int8")
        client.get("/v1/models/x")
        client.get("/chosen/by/the/client")
        told = client.get("/metrics").text
    assert 'gpt2rt_requests_total{path="/v1/models/{name}",status="200"} 1.0' in told
    assert 'gpt2rt_requests_total{path="/v1/models/{name}",status="404"} 1.0' in told
    assert 'gpt2rt_requests_total{path="other",status="404"} 1.0' in told
    assert "gpt2rt_requests_in_flight 1.0" in told


def test_every_count_of_a_batch_is_told() -> None:
    assert {field.name for field in fields(BatchStatistics)} < set(OF_A_MODEL)


def test_metrics_can_be_off(quick: ServeSettings) -> None:
    with in_process(replace(quick, metrics=False)) as client:
        assert client.get("/metrics").status_code == 404
