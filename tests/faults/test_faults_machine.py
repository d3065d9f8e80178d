"""A full disk, a clock that jumps, a memory limit, a Prometheus that disappears.

Needs root: it mounts a small file system and sets the kernel's memory limit of a process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fault_run import SCRAPE_FAILED, fault_under_load, known
from load import LoadGenerator
from processes import cores, gone, until

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4
GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A file system of 64 MiB for everything that the service writes."""
    folder = Path(tempfile.mkdtemp(prefix="d"))  # short, for the sockets below it
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


@dataclass(frozen=True)
class Clock:
    """A preloaded library that adds the number in a file to the system time."""

    library: Path
    file: Path

    def add(self, seconds: int) -> None:
        with self.file.open("r+b") as out:
            out.write(struct.pack("=q", seconds))


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """Needs a C compiler. Debian's libfaketime also changes the monotonic clock, which breaks Python's sleep."""
    folder = tmp_path_factory.mktemp("clock")
    made = Clock(folder / "clock.so", folder / "added")
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", made.library, source, "-ldl"], check=True)
    made.file.write_bytes(struct.pack("=q", 0))
    return made


@pytest.fixture(scope="module")
def watched(start_watched: Callable[..., Any], disk: Path, clock: Clock) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(disk))
        patch.setenv("LD_PRELOAD", str(clock.library))
        patch.setenv("CLOCK_ADDS", str(clock.file))
        started = start_watched("haproxy")
    yield started
    assert started.service.stop() == 0


def load(watched: Any) -> LoadGenerator:
    return LoadGenerator(watched.service.url, CLIENTS, tokens=30)


def fill(folder: Path) -> Path:
    """A file that takes all free space."""
    file = folder / "everything"
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"\0" * 65536)
        except OSError:
            return file


async def test_full_disk_harms_no_request(watched: Any, disk: Path) -> None:
    async with fault_under_load(watched, "disk full under logs and state files for 15 s", load(watched)) as run:
        file = fill(disk)
        await asyncio.sleep(15)
        assert shutil.disk_usage(disk).free == 0
        await run.load.wait_for_finished(4 * CLIENTS, 60)
        file.unlink()
        await run.load.wait_for_finished(4 * CLIENTS, 60)
    assert run.row.harmed == 0, run.row


async def test_stopped_prometheus_harms_no_request(watched: Any, tmp_path: Path) -> None:
    """A second Prometheus is paused in the middle of a scrape, then killed."""
    from support.prometheus_server import start_prometheus

    async with fault_under_load(
        watched, "Prometheus stopped in the middle of a scrape, then gone", load(watched)
    ) as run:
        second, process = start_prometheus(tmp_path, watched.targets, scrape="1s")
        await until(lambda: known(second, 1), 30, "the second Prometheus scrapes nothing")
        process.send_signal(signal.SIGSTOP)
        await run.load.wait_for_finished(4 * CLIENTS, 60)
        process.kill()
        process.wait(10)
        await run.load.wait_for_finished(4 * CLIENTS, 60)
    assert run.row.harmed == 0, run.row


@pytest.mark.skipif(not os.access(GROUPS, os.W_OK), reason="this machine offers no memory control groups (v1)")
async def test_engine_core_over_its_memory_limit_is_replaced(watched: Any) -> None:
    group = GROUPS / f"hybridserve-{os.getpid()}"
    await until(lambda: known(watched.prometheus, 1), 60, "Prometheus does not know the replica")
    (core,) = cores(watched.service)
    group.mkdir()
    fault = "memory limit of the only engine core reached"
    try:
        async with fault_under_load(
            watched, fault, LoadGenerator(watched.service.url, CLIENTS), "ReplicaLost", SCRAPE_FAILED
        ) as run:
            (group / "memory.limit_in_bytes").write_text("65536")
            (group / "cgroup.procs").write_text(str(core.pid))
            await until(lambda: gone(core), 60, "the kernel did not kill the core")
            await run.load.wait_for_finished(CLIENTS, 200)
            run.recovered()
    finally:
        group.rmdir()


async def test_clock_jump_harms_no_request(watched: Any, clock: Clock) -> None:
    # The last test: after it Ray would replace no replica that dies.
    async with fault_under_load(watched, "clock two hours forward, then a day back", load(watched)) as run:
        for seconds in (7200, -86400, 0):
            clock.add(seconds)
            await asyncio.sleep(8)
            await run.load.wait_for_finished(2 * CLIENTS, 60)
    assert run.row.harmed == 0, run.row
