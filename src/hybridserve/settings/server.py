"""Section `server`: where it listens and how it stops."""

from typing import Literal

from pydantic import Field

from hybridserve.settings.section import Section


class ServerSection(Section):
    """Listening and stopping."""

    host: str = "127.0.0.1"
    """Address the public port binds to."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Public HTTP port."""
    ready_timeout_s: float = Field(default=600.0, gt=0)
    """How long start-up may take before `serve` gives up."""
    data_path: Literal["auto", "haproxy", "proxy", "single"] = "auto"
    """How requests reach the engine: `haproxy` to the replica's own HTTP server, `proxy` through Ray Serve's Python
    proxy, `single` to one engine without Ray. `auto`: HAProxy where there is one for this machine, else `proxy`."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """How long open streams may run on after a stop was asked for."""
    stall_timeout_s: float = Field(default=120.0, gt=0)
    """An engine that has work and says nothing for so long is taken for dead: its process ends and is replaced."""
    profile: Literal["demo", "staging", "production"] = "demo"
    """How strict the gate is: production refuses to become ready on a failed check."""
