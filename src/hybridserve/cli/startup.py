"""Skip what typer and pydantic import but the offline verbs never use: a tenth of the time that `plan` takes."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _DeferredModule(ModuleType):
    """A module that is imported when one of its attributes is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        self.__dict__.update(vars(importlib.import_module(self.__name__)))
        return self.__dict__[name]


def defer_imports() -> None:
    """Import some modules of the standard library on first use, and search for no plugins of pydantic.

    To search for plugins, pydantic reads the metadata of every installed package.
    """
    for name in ("platform", "secrets", "subprocess"):
        sys.modules.setdefault(name, _DeferredModule(name))
    plugins = ModuleType("pydantic.plugin._loader")
    plugins.__dict__["get_plugins"] = tuple
    sys.modules.setdefault(plugins.__name__, plugins)
