"""Sections `model` and `accelerator`."""

from pathlib import Path
from typing import Any

from pydantic import Field

from hybridserve.settings.section import Section


class ModelSection(Section):
    """The model, its weights, and its served name."""

    id: str = "demo"
    """Catalog id (`hybridserve plan --list`), a local folder with config.json, or a Hugging Face repository."""
    source: str | None = None
    """Folder or repository of the weights; if empty, the catalog's."""
    revision: str | None = None
    """Commit of the repository (40 hex digits). The production profile refuses a branch."""
    weight_bytes: int | None = Field(default=None, ge=1)
    """Bytes of the weights, if the plan cannot know them: a quantized checkpoint whose files are not here."""
    config: dict[str, Any] | None = None
    """The checkpoint's config.json, for a model that neither the catalog nor a folder describes; `render helm` writes
    it."""
    served_name: str | None = Field(default=None, min_length=1)
    """Name that clients send as `model`; if empty, the catalog id."""


class AcceleratorSection(Section):
    """The device that the model runs on."""

    name: str = "cpu"
    """Catalog id of the accelerator, such as a10g, l40s, h100 or cpu."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Usable memory of one device in GiB, as PyTorch reports it, where it differs from the catalog's."""
    compute_capability: float | None = Field(default=None, ge=1)
    """Compute capability of the device named generic, such as 8.6."""
    calibration: Path | None = None
    """YAML file of pools reported by earlier starts: read by every plan, written after a start with profiling."""
