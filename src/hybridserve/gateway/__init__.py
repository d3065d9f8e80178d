"""The control layer: one pure-ASGI class in front of the engine's own app, the same in every mode."""

from hybridserve.gateway.middleware import GatewayMiddleware
from hybridserve.gateway.state import GatewayState

__all__ = ["GatewayMiddleware", "GatewayState"]
