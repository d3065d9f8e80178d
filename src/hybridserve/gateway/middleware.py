"""ASGI middleware in front of the engine, the same in every mode; no server framework and no engine is imported."""

from __future__ import annotations

from hybridserve.deployment.spec import DeploymentSpec, spec_from_environ
from hybridserve.gateway import pipeline
from hybridserve.gateway.context import RequestContext
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.state import GatewayState
from hybridserve.gateway.types import App, Receive, Scope, Send
from hybridserve.gateway.verify_monitor import DIRECT
from hybridserve.observability.metrics import labeled
from hybridserve.settings import Settings


class GatewayMiddleware:
    """Passes each HTTP request through the steps of `pipeline.handle`.

    Args:
        app: the ASGI app behind the gateway: vLLM's own, or Ray Serve's ingress.
        settings: all settings.
        state: instead of settings, for a caller that uses drain and readiness.

    Without settings and state, the configuration is read from ``HYBRIDSERVE_SETTINGS_JSON``, as under
    ``vllm serve --middleware``.

    Raises:
        ConfigError: the settings cannot be used.
    """

    def __init__(self, app: App, settings: Settings | None = None, *, state: GatewayState | None = None) -> None:
        if state is None:
            state = GatewayState(DeploymentSpec(settings=settings) if settings is not None else spec_from_environ())
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(DIRECT) is self.state.authenticator.internal_token:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._handle_http(scope, receive, send)
        elif scope["type"] == "websocket":
            # No API here uses WebSockets, and the guard could not read their traffic.
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "WebSockets are not supported"})
        elif scope["type"] == "lifespan":
            # The engine has started and the server is about to listen. `scope["app"]` includes this middleware.
            self.state.start(scope.get("app", self))
            try:
                await self.app(scope, receive, send)
            finally:
                await self.state.close()
        else:
            await self.app(scope, receive, send)

    async def _handle_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(self.app, self.state, scope, receive, send)
        try:
            await pipeline.handle(context)
        except APIError as error:
            labeled(self.state.metrics.requests_rejected, context.route.name, error.reason).inc()
            context.status, context.reason = error.status, error.reason
            await error.send(send, context.headers, context.route.errors)
        except ConnectionResetError:
            context.status, context.reason = 499, "client_gone"
        finally:
            context.close()
