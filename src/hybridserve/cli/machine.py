"""What this machine is: GPUs, memory, cores."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hybridserve.catalog.accelerators import Accelerator, identify

_QUERY = ["--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver reports it."""

    name: str
    memory_mib: float
    compute_capability: str

    @property
    def known(self) -> Accelerator | None:
        """Its entry in the catalog."""
        return identify(self.name, self.memory_mib, self.compute_capability)


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine; none without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        listed = subprocess.run([tool, *_QUERY], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(listed)


def parse_gpus(listed: str) -> list[Gpu]:
    """The lines of `nvidia-smi --query-gpu=name,memory.total,compute_cap`; a line without numbers is left out."""
    found = []
    for line in listed.splitlines():
        name, _, rest = line.partition(",")
        memory, _, capability = (part.strip() for part in rest.partition(","))
        if memory.replace(".", "").isdigit():
            found.append(Gpu(name.strip(), float(memory), capability))
    return found


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> tuple[int, int]:
    """Total and available memory in bytes. Source: Linux, /proc/meminfo, in KiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, free
