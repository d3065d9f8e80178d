"""Section `server`: address, data path, start-up and shutdown."""

from typing import Literal

from pydantic import Field

from hybridserve.settings.section import Section


class ServerSection(Section):
    """Address, data path, start-up and shutdown."""

    host: str = "127.0.0.1"
    """Address that the public port binds to."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Public HTTP port."""
    ready_timeout_s: float = Field(default=600.0, gt=0)
    """Longest start-up before `serve` exits with an error."""
    data_path: Literal["auto", "haproxy", "proxy", "single"] = "auto"
    """How requests reach the engine: `haproxy` to the replica's HTTP server, `proxy` through Ray Serve's Python proxy,
    `single` to one engine without Ray. `auto`: HAProxy if it is available for this machine, else `proxy`."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """How long open streams may continue after a stop signal."""
    stall_timeout_s: float = Field(default=120.0, gt=0)
    """An engine that has work but makes no progress for this long is considered dead; its process exits and is
    replaced."""
    profile: Literal["demo", "staging", "production"] = "demo"
    """How strict the compliance gate is: production does not become ready if a check fails."""
