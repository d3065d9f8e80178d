"""The engine core's imports, begun while the replica still does its own.

vLLM starts its engine core as a fresh process, which imports torch and vLLM again (7.5 s of processor time) after the
replica has done the same. On a CPU machine with two cores the two can go side by side: a standard `multiprocessing`
fork server is started first, imports what the core needs, and the core is forked from it. The fork server is a clean
process with one thread, so this is not the fork of a Ray worker that vLLM rightly avoids.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

PRELOAD = [
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "hybridserve.engine.patches.inline_executor",
]
PR_SET_PDEATHSIG = 1
# Key in vLLM's `additional_config` under which variables travel to the core.
ENVIRONMENT = "hybridserve_environment"


def start_forkserver() -> dict[str, str]:
    """Start the fork server; returns the environment it has, which is what the core will start with."""
    _preload_openmp()
    forkserver.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
    return dict(os.environ)


@contextmanager
def core_from_fork_server() -> Iterator[None]:
    """While this holds, vLLM forks its engine core from the fork server instead of spawning it."""
    from vllm.v1.engine import utils

    spawning = utils.get_mp_context
    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    try:
        yield
    finally:
        utils.get_mp_context = spawning


def changed_since(begun: Mapping[str, str]) -> dict[str, str]:
    """Variables that vLLM has set for its core since the fork server was started."""
    return {name: value for name, value in os.environ.items() if begun.get(name) != value}


def apply_environment(environment: Mapping[str, str]) -> None:
    """In the core: take over those variables, and die with the fork server, which dies with the replica."""
    os.environ.update(environment)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _preload_openmp() -> None:
    """Put torch's OpenMP runtime into LD_PRELOAD, as vLLM's CPU platform does before it spawns.

    vllm/platforms/cpu.py, CpuPlatform.check_and_update_config: otherwise only one core is used after thread binding. It
    must stand before the process does, and the platform code runs only after the imports that we want to overlap.
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
