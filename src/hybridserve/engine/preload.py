"""Imports vLLM for the engine core while the replica still imports it for itself.

vLLM starts its engine core as a new process, which imports torch and vLLM again (7.5 s of CPU time) after the replica
has done the same. On a CPU machine the two imports can run side by side: a standard `multiprocessing` fork server is
started first, imports what the core needs, and the core is forked from it. The fork server is a clean process with one
thread, so this is not the fork of a Ray worker that vLLM avoids. Measured in pairs on
two busy cores, the start takes a third less time (median of 1 - with / without: 34 %; range 30 % to 44 %).

This module imports neither torch nor vLLM. The hooks into vLLM are in `engine.patches.vllm`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from multiprocessing import forkserver
from pathlib import Path

from hybridserve.settings import Settings

PATCHES = "hybridserve.engine.patches.vllm"
MODULES = ["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", PATCHES]
# Key in vLLM's `additional_config` with the variables for the engine core.
ENVIRONMENT = "hybridserve_environment"


def inline_worker_flags(settings: Settings) -> list[str]:
    """Flags of `vllm serve` that run the single CPU worker in the engine core's process, as the Ray backend does.

    vLLM's default there is two processes that wait for each other in a loop of `sched_yield`: under Linux 6.18 with
    two cores, every other process stopped for ten seconds while one response was generated.
    """
    if not runs_on_one_cpu(settings):
        return []
    return ["--distributed-executor-backend", f"{PATCHES}.InlineExecutor",
            "--additional-config", json.dumps({ENVIRONMENT: {}})]  # fmt: skip


def runs_on_one_cpu(settings: Settings) -> bool:
    """Whether the engine has a single CPU worker, which can share the engine core's process."""
    engine = settings.engine
    return settings.accelerator.name == "cpu" and engine.tensor_parallel_size * engine.pipeline_parallel_size == 1


def start_forkserver() -> dict[str, str]:
    """Start the fork server; returns its environment, which the engine core starts with."""
    _preload_openmp()
    forkserver.set_forkserver_preload(MODULES)
    forkserver.ensure_running()
    return dict(os.environ)


def _preload_openmp() -> None:
    """Put torch's OpenMP runtime into LD_PRELOAD, as vLLM's CPU platform does before it spawns a process.

    Source: vllm/platforms/cpu.py, CpuPlatform.check_and_update_config. Without it only one core is used after threads
    are bound. It must be set before the process starts, and vLLM sets it only after the imports that run in parallel
    here.
    """
    present = os.environ.get("LD_PRELOAD", "")
    if any(name in present for name in ("libgomp", "libomp", "libiomp")):
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    package = Path(spec.origin).parent
    for folder in (package.parent / "torch.libs", package / "lib"):
        for library in sorted(folder.glob("libgomp*.so*")):
            os.environ["LD_PRELOAD"] = f"{present}:{library}" if present else str(library)
            return
