"""Accelerators: memory as the driver reports it, bandwidth and FLOPs, from `accelerators.yaml`."""

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hybridserve import yamlio
from hybridserve.catalog.models import Fact
from hybridserve.errors import CatalogError
from hybridserve.units import MIB

# Source: vLLM's CMakeLists.txt, CUDA_SUPPORTED_ARCHS with CUDA 12.8 or later; CUDA 13 is the default since vLLM's pull
# request 39878.
LOWEST_CAPABILITY = (7, 5)
_FILE = Path(__file__).with_name("accelerators.yaml")


class MemoryFacts(Fact):
    """Total memory of one device as the CUDA runtime reports it; None if it depends on the machine."""

    mib: int | None
    """Lowest reported total, in MiB. Planning uses it."""
    highest_mib: int | None
    """Highest reported total: drivers and ECC settings differ."""
    nominal_gb: int | None = None
    """Size under which the device is sold, which is more than what can be used; None where it is not known."""


class BandwidthFacts(Fact):
    """Peak memory bandwidth in GB/s (10^9 bytes)."""

    gb_s: float | None


class ComputeFacts(Fact):
    """Peak dense matrix throughput in TFLOP/s (10^12); None if the device has no such units."""

    bf16_tflops: float | None
    fp8_tflops: float | None


class Accelerator(BaseModel):
    """One kind of device."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    id: str
    name: str
    ray_accelerator_type: str | None = None
    """Ray's name for it (ray/util/accelerators); None if Ray has none."""
    vendor: Literal["nvidia", "amd"] = "nvidia"
    compute_capability: str | None
    smallest_server_defaults: bool = False
    """The engine uses the defaults of small devices, whatever the memory (A100)."""
    memory: MemoryFacts
    bandwidth: BandwidthFacts
    compute: ComputeFacts

    @property
    def platform(self) -> Literal["cuda", "cpu"]:
        return "cpu" if self.id == "cpu" else "cuda"

    @property
    def rocm(self) -> bool:
        """An AMD device. vLLM's attention backends there have the block sizes of CUDA's."""
        return self.vendor == "amd"

    @property
    def memory_bytes(self) -> int | None:
        """Total bytes of one device; None if it depends on the machine."""
        return None if self.memory.mib is None else self.memory.mib * MIB

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability; zeros on a CPU."""
        major, _, minor = (self.compute_capability or "0.0").partition(".")
        return int(major), int(minor)

    @property
    def has_kernels(self) -> bool:
        """vLLM's wheels have kernels for it."""
        return self.platform == "cpu" or self.capability >= LOWEST_CAPABILITY

    @property
    def rounds_stochastically(self) -> bool:
        """Whether Triton can round the SSM state stochastically: an instruction of data center Blackwell, 10.x.

        Source: vLLM config/mamba.py `MambaConfig`.
        """
        return self.major == 10

    @property
    def major(self) -> int:
        """Major compute capability of an NVIDIA device, else 0."""
        return 0 if self.rocm else self.capability[0]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    accelerators: tuple[Accelerator, ...]


@cache
def accelerators() -> tuple[Accelerator, ...]:
    """All accelerators of the catalog, in the file's order."""
    return _File.model_validate(yamlio.read(_FILE, kind=CatalogError)).accelerators


def identify(name: str, memory_mib: float, compute_capability: str) -> Accelerator | None:
    """The catalog's entry for a GPU as `nvidia-smi` reports it; None for one that it does not have, as a MIG slice.

    Args:
        name: such as ``NVIDIA H100 80GB HBM3``.
        memory_mib: total memory in MiB; the driver reports up to 4 % more than the CUDA runtime.
        compute_capability: such as ``9.0``.
    """
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    for device in accelerators():
        lowest, highest = device.memory.mib, device.memory.highest_mib or device.memory.mib
        parts = {part for part in device.id.split("-") if not part.endswith("gb")}
        if device.compute_capability == compute_capability and parts <= words and lowest is not None:
            assert highest is not None
            if 0.99 * lowest <= memory_mib <= 1.04 * highest:
                return device
    return None


def accelerator(name: str) -> Accelerator:
    """The accelerator with the id `name` (case and the vendor's name do not matter).

    Raises:
        CatalogError: no such id; the fix names the closest and lists all.
    """
    wanted = _plain(name)
    for entry in accelerators():
        if wanted in (_plain(entry.id), _plain(entry.name)):
            return entry
    ids = [entry.id for entry in accelerators()]
    close = [id_ for id_ in ids if wanted and id_.startswith(wanted)] or difflib.get_close_matches(
        wanted, ids, n=1, cutoff=0.4
    )
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise CatalogError(
        "accelerator.name",
        f"{name!r} is not in the catalog",
        f"{hint}known: {', '.join(ids)}; for another CUDA device generic with --memory-gib and --compute-capability",
    )


def newest_capability() -> tuple[int, int]:
    """The highest compute capability of an NVIDIA device in the catalog."""
    return max(device.capability for device in accelerators() if not device.rocm)


def _plain(name: str) -> str:
    return name.lower().removeprefix("nvidia ").removeprefix("amd ").replace(" ", "-").replace("_", "-")
