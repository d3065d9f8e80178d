"""ASGI middleware in front of the engine: authentication, limits, request policy, guard checks."""

from hybridserve.gateway.middleware import GatewayMiddleware
from hybridserve.gateway.state import GatewayState

__all__ = ["GatewayMiddleware", "GatewayState"]
