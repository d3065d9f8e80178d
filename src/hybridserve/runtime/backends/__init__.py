"""What runs the engine for `hybridserve serve`: Ray Serve on this machine, or vLLM's own server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Backend(Protocol):
    """Starts an engine with the gateway in front of it, and ends it."""

    data_path: str
    """How requests reach the engine."""
    status: str
    """Last known state, in the backend's own terms."""

    def start(self, enter: Callable[[str], None], rearm: Callable[[], None]) -> None:
        """Begin to start the engine, without waiting for it.

        Args:
            enter: called with the name of each phase.
            rearm: sets the signal handlers of `serve` again, after a library has installed its own.
        """
        ...

    def running(self) -> bool:
        """Whether the engine is up; False while it starts.

        Raises:
            EnvironmentFault: it cannot start, or has ended; with the engine's own reason.
        """
        ...

    def cache_line(self) -> str:
        """The engine's report of its cache capacity, once it runs."""
        ...

    def stop(self) -> None:
        """Let open streams finish for `server.drain_timeout_s`, then end the engine. The caller ends what is left."""
        ...
