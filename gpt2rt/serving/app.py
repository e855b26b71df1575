"""The application: every path of the server, and how its errors are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from gpt2rt import __version__
from gpt2rt.serving import chat, completions, pages, scores, state, texts, vectors
from gpt2rt.serving.ascii_json import ascii_json
from gpt2rt.serving.faults import ANSWERS, add_handlers
from gpt2rt.serving.guard import Guard
from gpt2rt.serving.service import Service

PATHS = (completions, chat, scores, vectors, texts, state, pages)  # as they are tried


def application(service: Service) -> ASGIApp:
    """What uvicorn runs: the endpoints behind their guard."""
    return Guard(create_app(service), service)


def create_app(service: Service) -> FastAPI:
    """The endpoints of `service`; their OpenAPI description is at /openapi.json."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        # FastAPI prepares the paths when they are first looked at, which takes a tenth of a second:
        # now, beside the models, and not in the event loop while others are answered.
        await run_in_threadpool(app.openapi)
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="gpt2rt",
        version=__version__,
        summary="GPT-2: OpenAI's API, scores and vectors",
        openapi_url=None,  # FastAPI would make the description, which takes long, in the event loop
        docs_url=None,  # FastAPI's page asks a foreign host; ours is /docs
        redoc_url=None,
        responses=ANSWERS,
        lifespan=lifespan,
    )
    app.state.service = service
    add_handlers(app)
    for module in PATHS:
        app.include_router(module.router)

    @app.get("/openapi.json", include_in_schema=False)
    def describe() -> Response:  # no coroutine: in a thread
        return Response(ascii_json(app.openapi()), media_type="application/json")

    return app
