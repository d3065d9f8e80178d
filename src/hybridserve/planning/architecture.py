"""A model as the planner sees it, read from its config.json.

The public face of `shapes` (the types) and `readers` (one module a family of models).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridserve.planning.readers import read_architecture as _read
from hybridserve.planning.shapes import (
    Architecture,
    Attention,
    Dtype,
    GatedDeltaNet,
    Layer,
    Mamba1,
    Mamba2,
    Mlp,
    Moe,
    StateMixer,
)

__all__ = [
    "Architecture",
    "Attention",
    "Dtype",
    "GatedDeltaNet",
    "Layer",
    "Mamba1",
    "Mamba2",
    "Mlp",
    "Moe",
    "StateMixer",
    "read_architecture",
]


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture a Hugging Face `config.json` describes, in old and in new spellings.

    Raises:
        CatalogError: a field is missing or wrong (it is named), or the model is outside the planner's scope.
    """
    return _read(config)
