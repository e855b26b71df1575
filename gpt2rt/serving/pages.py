"""The page at `/`, and the description of the endpoints at `/docs`: files served as they are.

The scripts are ES modules that ask this server alone; the policy below holds the browser to that.
Paths in the files are relative, so the page works behind a proxy's prefix, too.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response

PAGES = {"/": "index.html", "/docs": "docs.html"}
FILES = "/page/"  # where the pages' styles, scripts and icon are
TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS = {
    "Cache-Control": "no-cache",  # asked for again each time, and mostly answered by a 304
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


def page(request: Request) -> Response:
    """One of `PAGES`."""
    return _file(request, PAGES[request.scope["route"].path])


for path in PAGES:
    router.add_api_route(path, page, methods=["GET", "HEAD"])


@router.api_route(FILES + "{name}", methods=["GET", "HEAD"])
def page_file(request: Request, name: str) -> Response:
    """A style, a script or the icon."""
    if name not in _contents() or name in PAGES.values():
        raise HTTPException(404, f"the page has no file {name!a}")
    return _file(request, name)


def _file(request: Request, name: str) -> Response:
    """The file, or only that the browser has it. uvicorn leaves the body out where HEAD asks."""
    body, tag = _contents()[name]
    headers = {**HEADERS, "ETag": tag}
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or f"W/{tag}" in known:  # proxies that compress weaken it
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=TYPES[name.rpartition(".")[2]])


@cache
def _contents() -> dict[str, tuple[bytes, str]]:
    """Each file's bytes and its ETag, read when the page is first asked for."""
    found = {}
    for file in resources.files("gpt2rt.serving").joinpath("page").iterdir():
        if file.name.rpartition(".")[2] in TYPES:
            body = file.read_bytes()
            found[file.name] = body, f'"{sha256(body).hexdigest()[:32]}"'
    return found
