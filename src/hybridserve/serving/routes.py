"""Routes of ours beside vLLM's: what was planned and what the engine reports."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.responses import JSONResponse
from starlette.routing import Route

from hybridserve.serving.reported import ReportedCache
from hybridserve.settings import Settings


def add_routes(app: Any, settings: Settings, cache: ReportedCache) -> None:
    """Put our routes in front of the engine's own, in any mode."""

    async def plan(_: Any) -> JSONResponse:
        return JSONResponse(
            {"engine": asdict(cache), "line": cache.line(), "model": settings.model.served_name or settings.model.id}
        )

    app.router.routes.insert(0, Route("/plan", plan, methods=["GET"]))
