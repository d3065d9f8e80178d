"""A full disk under logs, sockets and state files: streams go on, and so does the service when there is room again.

Needs root, to mount a small file system of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ledger import Load
from parts import record, slots, told_apart, until

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is left."""
    file = folder / "everything"
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"\0" * 65536)
        except OSError:
            return file


async def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stack_service import start

    monkeypatch.setenv("TMPDIR", str(small_disk))
    service: Any = await asyncio.to_thread(start, ["--data-path", "haproxy"])
    try:
        async with Load(service.url, CLIENTS, tokens=30) as load:
            await load.finished(2 * CLIENTS, 120)
            in_flight, at = len(load.ledger.open), time.monotonic()
            file = fill(small_disk)
            await asyncio.sleep(15)
            await load.finished(4 * CLIENTS, 60)
            file.unlink()
            await load.finished(4 * CLIENTS, 60)
        row = told_apart(load.ledger, "disk full under logs and state files for 15 s", at, in_flight, None)
        record(row)
        assert (row.told, row.cut, row.silent) == (0, 0, 0), row
        await until(lambda: slots(service) == 0, 60, "a slot is still taken")
    finally:
        code = await asyncio.to_thread(service.stop)
    assert code == 0
