"""Every error a user can cause, as one small tree.

HybridServeError
├── ConfigError        a setting is wrong, missing or unknown          exit 2
├── CatalogError       a model, license, GPU or engine is not known    exit 2
├── PlanRefused        the engine would refuse to start with this      exit 2
├── EnvironmentFault   this machine cannot run it (port, memory, CPU)  exit 2
└── ServiceError       a running service answered wrongly or not       exit 2

A finding that fails (`hybridserve check`) is not an error: it is a result, with exit code 1.
"""

from __future__ import annotations


class HybridServeError(Exception):
    """A user's mistake, or a limit of their machine, said in three parts.

    Args:
        where: settings path (``engine.max_num_seqs``), file, or catalogue entry.
        what: what is wrong, with the offending value.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, where: str, what: str, fix: str) -> None:
        super().__init__(f"{where}: {what} ({fix})")
        self.where = where
        self.what = what
        self.fix = fix

    def as_dict(self) -> dict[str, str]:
        """The same three parts for ``--json``."""
        return {"error": type(self).__name__, "where": self.where, "what": self.what, "fix": self.fix}


class ConfigError(HybridServeError):
    """A setting is wrong, missing or unknown."""


class CatalogError(HybridServeError):
    """A model, license, accelerator or engine version is not known, or its entry is broken."""


class PlanRefused(HybridServeError):
    """The engine would refuse to start with these settings; `what` is the engine's own reason."""


class EnvironmentFault(HybridServeError):
    """This machine cannot run what was asked: port, memory, instruction set, package version."""


class ServiceError(HybridServeError):
    """A running service answered wrongly, or not at all."""
