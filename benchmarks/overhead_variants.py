"""`hybridserve serve` with several variants of the gateway, so that requests without it use the same processes.

The header `x-bench-variant` selects: `bare` is vLLM's application alone, `keys` the product's gateway, and each guard
of `OVERHEAD_GUARDS` (JSON: name to guard settings) a gateway with that guard. Only for measurements: `bare` requires no
key. Imported by name in the processes of the service, with this folder on their PYTHONPATH.
"""

from __future__ import annotations

import json
import os
from typing import Any

from starlette.middleware import Middleware

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.vllm_middleware import VLLMMiddleware
from hybridserve.gateway import GatewayMiddleware
from hybridserve.gateway.state import GatewayState
from hybridserve.runtime import ray_app
from hybridserve.settings.guard import GuardSection

GUARDS = "OVERHEAD_GUARDS"
HEADER = b"x-bench-variant"


class Switch:
    """Several variants in front of one application; without the header the product's."""

    def __init__(self, app: Any, state: GatewayState) -> None:
        variants: dict[bytes, Any] = {b"bare": app, b"keys": GatewayMiddleware(app, state=state)}
        for name, section in json.loads(os.environ[GUARDS]).items():
            settings = state.settings.model_copy(update={"guard": GuardSection.model_validate(section)})
            guarded = GatewayState(
                DeploymentSpec(settings=settings), metrics=state.metrics, sends_request_id=state.sends_request_id
            )
            variants[name.encode()] = GatewayMiddleware(app, state=guarded)
        self._variants = variants

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = b"keys"
        for header, value in scope.get("headers", ()):
            if header == HEADER:
                name = value
        await self._variants[name](scope, receive, send)


class SwitchedReplica(ray_app.Replica):
    """The product's replica with the switch in place of the gateway."""

    async def __serve_build_asgi_app__(self) -> Any:
        app = await super().__serve_build_asgi_app__()
        app.user_middleware = [
            Middleware(Switch, state=entry.kwargs["state"]) if entry.cls is GatewayMiddleware else entry
            for entry in app.user_middleware
        ]
        app.middleware_stack = None
        return app


class SwitchedMiddleware(VLLMMiddleware):
    """The same for one engine without Ray."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._switch = Switch(app, self.state)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._switch(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
