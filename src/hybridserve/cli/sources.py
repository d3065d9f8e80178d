"""Where the settings of the running command came from, for an error that is found after they were read."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

_sources: ContextVar[Mapping[str, str] | None] = ContextVar("sources", default=None)


def remember_sources(sources: Mapping[str, str]) -> None:
    """Keep the sources of `Loaded`; an empty mapping begins a command that has read no settings yet."""
    _sources.set({path: source for path, source in sources.items() if source != "default"})


def source_of(where: str) -> str | None:
    """Where a setting came from, in words; None for a default, and for what is no setting that was read."""
    if not (sources := _sources.get()):
        return None
    from hybridserve.settings.faults import set_by

    return set_by(where, sources)
