"""The `hybridserve` command: one small file per verb, imported only when it is asked for."""

from __future__ import annotations

import gc
from typing import Any


def main(argv: list[str] | None = None) -> Any:
    """Run the command.

    Imports only add objects that stay: looking for garbage among them takes a sixth of the time that `plan` takes, so
    the collector rests until the verb has been loaded.
    """
    gc.disable()
    from hybridserve.cli.app import main as run

    return run(argv)


__all__ = ["main"]
