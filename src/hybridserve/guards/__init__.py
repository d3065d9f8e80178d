"""Safety guards: one interface, adapters for guard models and services, and a wrapper with deadline and retries."""

from hybridserve.guards.base import Guard, GuardError, GuardVerdict, Message, Stage
from hybridserve.guards.build import build_guard
from hybridserve.guards.resilient_guard import ResilientGuard

__all__ = ["Guard", "GuardError", "GuardVerdict", "Message", "ResilientGuard", "Stage", "build_guard"]
