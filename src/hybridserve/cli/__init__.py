"""The `hybridserve` command: one module per verb, imported when the verb is used."""

from __future__ import annotations

import gc
from typing import Any


def main(argv: list[str] | None = None) -> Any:
    """Run the command.

    Objects that imports create are never garbage, so the collector is off until the verb is loaded; otherwise it would
    take a sixth of the time of `plan`.
    """
    gc.disable()
    from hybridserve.cli.app import main as run

    return run(argv)


__all__ = ["main"]
