"""The machine around the service: a full disk, a clock that jumps, memory that ends, a Prometheus that is gone.

Needs root: a small file system of its own is mounted, and the kernel is told how much memory a process may have.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from components import cores, gone, record, slots, told_apart, until
from ledger import Load
from watch import LOST, SEEN_S, Watch, known

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4
GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """64 MiB for everything that the service writes."""
    folder = Path(tempfile.mkdtemp(prefix="d"))  # short, for the sockets below it
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


@dataclass(frozen=True)
class Clock:
    """A library that moves the time of day by what stands in a file."""

    library: Path
    file: Path

    def add(self, seconds: int) -> None:
        with self.file.open("r+b") as out:
            out.write(struct.pack("=q", seconds))


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """Needs a C compiler. Debian's libfaketime cannot leave the monotonic clock alone: Python's sleep fails then."""
    folder = tmp_path_factory.mktemp("clock")
    made = Clock(folder / "clock.so", folder / "added")
    words = ["cc", "-shared", "-fPIC", "-O2", "-o", made.library, Path(__file__).with_name("clock.c"), "-ldl"]
    subprocess.run(words, check=True)
    made.file.write_bytes(struct.pack("=q", 0))
    return made


@pytest.fixture(scope="module")
def watched(start_watched: Callable[..., Any], disk: Path, clock: Clock) -> Iterator[Any]:
    variables = {"TMPDIR": str(disk), "LD_PRELOAD": str(clock.library), "CLOCK_ADDS": str(clock.file)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        started = start_watched("--data-path", "haproxy")
    yield started
    assert started.service.stop() == 0


@asynccontextmanager
async def unharmed(service: Any, fault: str) -> AsyncIterator[Load]:
    """A load, of which no request may notice the fault."""
    async with Load(service.url, CLIENTS, tokens=30) as load:
        await load.finished(2 * CLIENTS, 120)
        in_flight, at = len(load.ledger.open), time.monotonic()
        yield load
        await load.finished(4 * CLIENTS, 60)
    row = told_apart(load.ledger, fault, at, in_flight, None)
    record(row)
    assert (row.told, row.cut, row.silent) == (0, 0, 0), row
    await until(lambda: slots(service) == 0, 60, "a slot is still taken")


def fill(folder: Path) -> Path:
    """A file that takes all that is left."""
    file = folder / "everything"
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"\0" * 65536)
        except OSError:
            return file


async def test_a_full_disk(watched: Any, disk: Path) -> None:
    async with unharmed(watched.service, "disk full under logs and state files for 15 s") as load:
        file = fill(disk)
        await asyncio.sleep(15)
        assert shutil.disk_usage(disk).free == 0
        await load.finished(4 * CLIENTS, 60)
        file.unlink()


async def test_a_prometheus_that_is_gone(watched: Any, tmp_path: Path) -> None:
    """Nobody reads the metrics for a while, and somebody who reads them stands still in the middle."""
    from support.prometheus_server import start_prometheus

    targets = watched.targets
    async with unharmed(watched.service, "Prometheus stopped in the middle of a scrape, then gone"):
        _, process = start_prometheus(tmp_path, targets, scrape="1s")
        await asyncio.sleep(5)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(5)
        process.kill()
        process.wait(10)


@pytest.mark.skipif(not os.access(GROUPS, os.W_OK), reason="no control groups of memory that this machine gives out")
async def test_memory_that_ends(watched: Any) -> None:
    """The kernel kills the engine core when it asks for more than it may have."""
    service = watched.service
    group = GROUPS / f"hybridserve-{os.getpid()}"
    await until(lambda: known(watched.prometheus, 1), 60, "Prometheus does not know the replica")
    (core,) = cores(service)
    group.mkdir()
    try:
        async with Load(service.url, CLIENTS) as load, Watch(watched.prometheus, LOST, "ReplicaLost") as watch:
            await load.finished(2 * CLIENTS, 120)
            in_flight, at = len(load.ledger.open), time.monotonic()
            (group / "memory.limit_in_bytes").write_text("65536")
            (group / "cgroup.procs").write_text(str(core.pid))
            await until(lambda: gone(core), 60, "the core lives")
            await load.finished(CLIENTS, 200)
            back = time.monotonic() - at
            await until(lambda: watch.saw("ReplicaLost"), 60, f"not seen by metric and alert, {watch.seen}")
        row = told_apart(load.ledger, "memory limit of the only engine core reached", at, in_flight, back, watch.seen)
        record(row)
        assert row.silent == 0, row
        assert watch.metric_s is not None
        assert watch.metric_s < SEEN_S, row
        await until(lambda: slots(service) == 0, 60, "a slot is still taken")
    finally:
        group.rmdir()


async def test_a_clock_that_jumps(watched: Any, clock: Clock) -> None:
    # The last test: from now on Ray would replace no replica that dies.
    async with unharmed(watched.service, "time of day two hours on, then a day back") as load:
        for seconds in (7200, -86400, 0):
            clock.add(seconds)
            await asyncio.sleep(8)
            await load.finished(2 * CLIENTS, 60)
