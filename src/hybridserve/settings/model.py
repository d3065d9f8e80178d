"""Section `model`: which model, from where, under which name."""

from pathlib import Path

from pydantic import Field

from hybridserve.settings.section import Section


class ModelSection(Section):
    """Which model."""

    id: str = "demo"
    """Catalog id (`hybridserve plan --list`), a local folder with config.json, or a Hugging Face repository."""
    source: str | None = None
    """Folder or repository the weights are read from; the catalog's own when empty."""
    revision: str | None = None
    """Commit of the repository (40 hex digits). Production refuses a moving branch."""
    served_name: str | None = Field(default=None, min_length=1)
    """Name that clients put into `model`; the catalog id when empty."""


class AcceleratorSection(Section):
    """Section `accelerator`: what it runs on."""

    name: str = "cpu"
    """Catalog id of the accelerator, such as a10g, l40s, h100 or cpu."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory of one device in GiB where it differs from the catalog's, as on a shared GPU."""
    calibration: Path | None = None
    """YAML file of pools that earlier starts reported: read by every plan, written after a start that profiled one."""
