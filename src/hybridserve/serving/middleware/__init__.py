"""The control layer: one pure-ASGI class in front of the engine's own app, the same in every mode."""

from hybridserve.serving.middleware.control import Control
from hybridserve.serving.middleware.handover import Handover
from hybridserve.serving.middleware.middleware import ControlMiddleware

__all__ = ["Control", "ControlMiddleware", "Handover"]
