"""Ends every process that a run started, including those whose own parent died first."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from typing import NoReturn

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own (Linux `PR_SET_CHILD_SUBREAPER`).

    Ray's processes and vLLM's engine core outlive a killed parent; this way they stay in our process tree.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def kill_self_and_descendants(code: int) -> NoReturn:
    """Kill all descendants immediately (SIGKILL, which also ends stopped processes), then exit with `code`."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(code)


def kill_descendants(grace_s: float = 5.0) -> int:
    """End all descendants: SIGTERM, and SIGKILL after `grace_s`. Returns how many there were."""
    ended: set[int] = set()
    deadline = time.monotonic() + grace_s
    while descendants := psutil.Process().children(recursive=True):
        kill = time.monotonic() > deadline
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                if kill:
                    process.kill()
                elif process.pid not in ended:
                    process.terminate()
            ended.add(process.pid)
        psutil.wait_procs(descendants, timeout=0.2)
    return len(ended)
