"""The paths that tell of the server itself: health, readiness, models, metrics."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from gpt2rt.serving.faults import Fault
from gpt2rt.serving.models import ServedModel
from gpt2rt.serving.service import Service, service_of

router = APIRouter(tags=["server"])
Here = Annotated[Service, Depends(service_of)]


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="Whether the server answers at all")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)
@router.get("/ready", summary="Whether requests are answered: 503 while loading, failing or ending")
async def ready(service: Here) -> dict[str, str]:
    state = service.state
    if state != "ready":
        raise Fault(503, f"the server is {state}", code=state, retry_after=1)
    return {"status": state}


@router.get("/metrics", summary="Counts in Prometheus' format", response_class=Response)
async def metrics(service: Here) -> Response:
    if not service.settings.metrics:
        raise Fault(404, "metrics are off (--no-metrics)")
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return Response(await service.counts(), media_type=kind)


@router.get("/v1/models", summary="The models that may be asked for")
async def list_models(service: Here) -> dict[str, Any]:
    return {"object": "list", "data": [_described(served) for served in service.models.all()]}


@router.get("/v1/models/{name}", summary="A model")
async def show_model(name: str, service: Here) -> dict[str, Any]:
    return _described(service.models.find(name))


def _described(served: ServedModel) -> dict[str, Any]:
    manifest = served.bundle.manifest
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "gpt2rt",
        "loaded": served.model is not None,
        "context": manifest.hparams.n_ctx,
        "vocabulary": manifest.hparams.n_vocab,
        "layers": manifest.hparams.n_layer,
        "precision": manifest.precision,
    }
