"""Where the settings of the running command came from, for its output and for errors that are found later."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path

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


def settings_read() -> bool:
    """Whether this command has read settings that were given."""
    return bool(_sources.get())


def settings_from(sources: Mapping[str, str], config: Path | None) -> str:
    """Where settings came from, in words: "hybridserve.yaml and --set", or "the defaults".

    Args:
        sources: as in `Loaded`.
        config: the file that the command was given; None without one.
    """
    given = [str(config) if config is not None else "the defaults"]
    for source in sources.values():
        kind, _, name = source.partition(" ")
        if kind in ("env", "flag"):
            given.append("the environment" if kind == "env" else name)
    return " and ".join(dict.fromkeys(given))
