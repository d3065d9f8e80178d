"""All settings, typed: a YAML file, the environment and flags set the same `Settings`.

Each section has its own module; `load` reads them and records where each value came from.
"""

from hybridserve.settings.load import Loaded, Option, load
from hybridserve.settings.root import Settings

__all__ = ["Loaded", "Option", "Settings", "load"]
