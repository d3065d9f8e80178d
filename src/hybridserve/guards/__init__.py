"""Safety guards: one interface, adapters for the guards in use, and a shell that makes every answer a verdict."""

from hybridserve.guards.base import Guard, GuardError, GuardVerdict, Message, Stage
from hybridserve.guards.build import build_guard
from hybridserve.guards.resilient import ResilientGuard

__all__ = ["Guard", "GuardError", "GuardVerdict", "Message", "ResilientGuard", "Stage", "build_guard"]
