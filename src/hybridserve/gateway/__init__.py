"""The control layer: one pure-ASGI class in front of the engine's own app, the same in every mode."""

from hybridserve.gateway.config import Handover
from hybridserve.gateway.middleware import ControlMiddleware
from hybridserve.gateway.state import Control

__all__ = ["Control", "ControlMiddleware", "Handover"]
