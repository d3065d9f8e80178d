"""Safety guards: one interface, adapters for the guards in use, and a shell that makes every answer a verdict."""

from hybridserve.guards.base import Guard, GuardFault, Message, Stage, Verdict
from hybridserve.guards.build import build_guard
from hybridserve.guards.resilient import Reliable

__all__ = ["Guard", "GuardFault", "Message", "Reliable", "Stage", "Verdict", "build_guard"]
