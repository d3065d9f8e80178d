"""Safety guards: one interface, adapters for the guards in use, and a shell that makes every answer a verdict."""

from hybridserve.serving.guards.build import build_guard
from hybridserve.serving.guards.interface import Guard, GuardFault, Message, Stage, Verdict
from hybridserve.serving.guards.reliable import Reliable

__all__ = ["Guard", "GuardFault", "Message", "Reliable", "Stage", "Verdict", "build_guard"]
