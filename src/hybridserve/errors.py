"""Errors that a user can cause or fix. The command line prints their three parts and exits with code 2.

A finding that fails (`hybridserve check`) is not an error: it is a result, with exit code 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


class HybridServeError(Exception):
    """Base of all errors: a mistake in the input, or a limit of the machine.

    Args:
        where: settings path (``engine.max_num_seqs``), file, or catalog entry.
        what: what is wrong, with the offending value.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, where: str, what: str, fix: str) -> None:
        super().__init__(f"{where}: {what} ({fix})")
        self.where = where
        self.what = what
        self.fix = fix
        self.others: tuple[HybridServeError, ...] = ()
        """Further errors that were found with this one."""

    def as_dict(self) -> dict[str, Any]:
        """The error for ``--json``; `others` is there if there are any."""
        tree: dict[str, Any] = {"error": type(self).__name__, "where": self.where, "what": self.what, "fix": self.fix}
        return {**tree, "others": [other.as_dict() for other in self.others]} if self.others else tree

    def __str__(self) -> str:
        return "; ".join([f"{self.where}: {self.what} ({self.fix})", *map(str, self.others)])


class ConfigError(HybridServeError):
    """A setting is wrong, missing or unknown."""


class CatalogError(HybridServeError):
    """A model, license, accelerator or engine version is not known, or its entry is broken."""


class PlanRefused(HybridServeError):
    """The engine would refuse to start with these settings; `what` is the engine's own reason."""


class EnvironmentFault(HybridServeError):
    """This machine cannot run it: port, memory, instruction set or package version."""


class ServiceError(HybridServeError):
    """A running service gave a wrong response, or none."""


_PACKAGES = {
    "loadtest": ("locust", "gevent", "geventhttpclient"),
    "dashboards": ("grafana_foundation_sdk",),
    "charts": ("matplotlib",),
    "redis": ("redis",),
    "serve": (
        *("ray", "vllm", "torch", "transformers", "tokenizers", "numpy", "psutil", "aiohttp", "fsspec", "jsonref"),
        *("pyarrow", "pandas", "fastapi", "starlette", "uvicorn", "openai", "opentelemetry"),
    ),
}
"""Modules of each extra of this package."""


def not_installed(missing: ModuleNotFoundError) -> EnvironmentFault | None:
    """The error for a package of an extra that is not installed; None if the module belongs to no extra."""
    module = (missing.name or "").partition(".")[0]
    for extra, modules in _PACKAGES.items():
        if module in modules:
            fix = f"{install_lock('cpu')} (or gpu)" if extra == "serve" else install_extra(extra)
            return EnvironmentFault("install", f"{module} is not installed: it belongs to the extra {extra}", fix)
    return None


def install_extra(extra: str) -> str:
    """The command that installs an extra of this package into the environment that runs."""
    if _made_by_make():
        return f".venv/bin/pip install -e '.[{extra}]' in the repository"
    return f"{sys.executable} -m pip install '.[{extra}]' in a clone of the repository, or 'WHEEL[{extra}]'"


def install_lock(lock: str) -> str:
    """The command that installs a lock into the environment that runs: make's own, or one that a person manages."""
    if _made_by_make():
        return f"make install LOCK={lock}"
    return f"{sys.executable} -m pip install --no-deps -r requirements/{lock}.txt in a clone of the repository"


def _made_by_make() -> bool:
    """Whether this is `.venv` of the repository, which is the only environment that `make install` changes."""
    return Path(sys.prefix).resolve() == (Path(__file__).resolve().parents[2] / ".venv").resolve()
