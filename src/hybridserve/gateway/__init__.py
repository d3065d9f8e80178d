"""The control layer: one pure-ASGI class in front of the engine's own app, the same in every mode."""

from hybridserve.gateway.config import GatewayConfig
from hybridserve.gateway.middleware import GatewayMiddleware
from hybridserve.gateway.state import GatewayState

__all__ = ["GatewayConfig", "GatewayMiddleware", "GatewayState"]
