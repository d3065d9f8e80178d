"""The `hybridserve` command: one small file per verb, imported only when it is asked for."""

from hybridserve.cli.app import main

__all__ = ["main"]
