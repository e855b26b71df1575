"""The server around its endpoints."""

from __future__ import annotations

from fastapi.testclient import TestClient

from serving import RunningServer


def test_health(server: RunningServer, client: TestClient) -> None:
    for asking in (server.client(), client):
        assert asking.get("/health").json() == {"status": "ok"}
