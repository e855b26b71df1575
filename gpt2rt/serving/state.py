"""The paths that tell of the server itself: health, readiness, models, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

router = APIRouter(tags=["server"])


@router.get("/health", summary="Whether the server answers at all")
async def health() -> dict[str, Any]:
    return {"status": "ok"}
