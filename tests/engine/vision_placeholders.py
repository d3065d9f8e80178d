"""Placeholders for packages that classes with an encoder import, and that have no CPU build for every platform."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest.mock import MagicMock


class Anything(types.ModuleType):
    """Finds any name in it, a module inside it included."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


class VisionPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Packages that classes with an encoder import, and that have no CPU build for every platform."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] in ("torchvision", "torchaudio", "timm", "terratorch"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Any:
        return Anything(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


@contextlib.contextmanager
def vision_packages() -> Iterator[None]:
    """Import what is missing of them as a placeholder."""
    finder = VisionPackages()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
