"""The files of the page at `/` and of the endpoints at `/docs`, as they are sent."""

from __future__ import annotations

import re
from importlib import resources

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from gpt2rt.serving.pages import FILES, HEADERS, PAGES, TYPES

FOLDER = resources.files("gpt2rt.serving").joinpath("page")
NAMES = sorted(file.name for file in FOLDER.iterdir() if file.name.rpartition(".")[2] in TYPES)
ADDRESSES = [*PAGES, *(FILES + name for name in NAMES if name not in PAGES.values())]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_file_is_sent_once(client: TestClient, address: str) -> None:
    """With the policy that holds the browser to this server, and again only if it changed."""
    found = client.get(address)
    name = PAGES.get(address, address.removeprefix(FILES))
    assert found.status_code == 200
    assert found.content == FOLDER.joinpath(name).read_bytes()
    assert found.headers["content-type"] == TYPES[name.rpartition(".")[2]]
    for field, value in HEADERS.items():
        assert found.headers[field] == value
    tag = found.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = client.get(address, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head(address).headers["etag"] == tag


@pytest.mark.parametrize(
    "name", ["none.js", "index.html", "", "%2e%2e", "%2e%2e%2fpages.py", "page.css%00"]
)
def test_no_other_file_is_sent(client: TestClient, name: str) -> None:
    answer = client.get(FILES + name)
    assert answer.status_code == 404
    assert "error" in answer.json()


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_a_foreign_host_or_makes_html_of_text(name: str) -> None:
    text = FOLDER.joinpath(name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b| style=", text
    )
