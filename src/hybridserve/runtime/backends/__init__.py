"""What runs the engine for `hybridserve serve`: Ray Serve on this machine, or vLLM's own server by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Backend(Protocol):
    """Starts an engine with the control layer in front of it, and ends it."""

    data_path: str
    """How requests reach the engine."""
    status: str
    """Last known state, in the host's own word."""

    def start(self, enter: Callable[[str], None], rearm: Callable[[], None]) -> None:
        """Begin to start it, without waiting for the engine.

        Args:
            enter: told the name of each phase.
            rearm: sets the signal handlers of `serve` again, after a library has put its own in place.
        """
        ...

    def running(self) -> bool:
        """Whether the engine is up; False while it starts.

        Raises:
            EnvironmentFault: it will not come up, or is gone; with the engine's own reason.
        """
        ...

    def cache_line(self) -> str:
        """The engine's own statement of its capacity, once it runs."""
        ...

    def stop(self) -> None:
        """Let open streams finish for `server.drain_timeout_s`, then end it. What is left of it is the caller's."""
        ...
