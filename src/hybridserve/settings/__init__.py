"""Every knob, typed once: YAML file, environment and flags all set the same `Settings`.

A file per section; `Settings` ties them together and `load` says where each value came from.
"""

from hybridserve.settings.load import Loaded, load
from hybridserve.settings.tree import Settings

__all__ = ["Loaded", "Settings", "load"]
