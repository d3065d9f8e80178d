"""Faults under a steady load of streams: who noticed, who lost what, and how long until all was well again.

`make test-faults` runs them and writes the table of docs/faults.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from ledger import Ledger, Load

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(600)]

CLIENTS = 6
# Two replicas start at once on two busy cores.
RECOVERY_S = 150.0


@dataclass
class Row:
    """A line of the table. Times are seconds from the fault."""

    fault: str
    data_path: str
    requests: int
    finished: int
    told: int
    cut: int
    silent: int
    in_flight: int
    first_failure_s: float | None
    last_failure_s: float | None
    all_back_s: float | None


def rows_file() -> Path | None:
    name = os.environ.get("FAULT_ROWS")
    return Path(name) if name else None


def record(row: Row) -> None:
    file = rows_file()
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(row)) + "\n")
    print(row)


def named(service: object, *words: str) -> list[psutil.Process]:
    """Living processes of the service with one of these words in their title."""
    found = []
    for process in service.family():  # type: ignore[attr-defined]
        try:
            title = process.name() + " " + " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and any(word in title for word in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def replicas(service: object) -> list[psutil.Process]:
    return named(service, "ServeReplica:hybridserve:engine")


def cores(service: object) -> list[psutil.Process]:
    """Engine cores: the one child of each replica that is not a helper of Python's."""
    return named(service, "VLLM::EngineCor")


async def until(what: Callable[[], bool], timeout_s: float, why: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not await asyncio.to_thread(what):
        if time.monotonic() - began > timeout_s:
            pytest.fail(f"{why} after {timeout_s:.0f} s")
        await asyncio.sleep(0.25)
    return time.monotonic() - began


def slots(service: object) -> float:
    """Running and waiting requests, over the replicas that answer."""
    url = service.url  # type: ignore[attr-defined]
    total = 0.0
    for _ in range(6):  # whichever replica answers
        text = httpx.get(f"{url}/metrics", timeout=30).text
        for line in text.splitlines():
            if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{")):
                total += float(line.rsplit(" ", 1)[1])
    return total


@asynccontextmanager
async def under_load(service: object) -> AsyncIterator[Load]:
    async with Load(service.url, CLIENTS) as load:  # type: ignore[attr-defined]
        await load.finished(2 * CLIENTS, 120)
        yield load


def told_apart(ledger: Ledger, fault: str, path: str, at: float, in_flight: int, back: float | None) -> Row:
    failed = [entry for entry in ledger.failed() if entry.ended >= at]
    counts = ledger.counts()
    return Row(
        fault=fault,
        data_path=path,
        requests=len(ledger.entries),
        finished=counts["finished"],
        told=counts["told"],
        cut=counts["cut"] + counts["refused"],
        silent=counts["silent"],
        in_flight=in_flight,
        first_failure_s=round(min(entry.ended for entry in failed) - at, 2) if failed else None,
        last_failure_s=round(max(entry.ended for entry in failed) - at, 2) if failed else None,
        all_back_s=None if back is None else round(back, 1),
    )


@pytest.fixture(scope="module")
def pair(start_module_service: Callable[..., object]) -> object:
    """Two replicas behind HAProxy."""
    two = ["scaling.min_replicas=2", "scaling.max_replicas=2", "engine.max_num_seqs=8"]
    return start_module_service("--data-path", "haproxy", *[word for value in two for word in ("--set", value)])


async def strike(
    service: object, fault: str, act: Callable[[], None], path: str, *, back: Callable[[], bool] | None = None
) -> Row:
    """The fault under load, and the load on until all is back and answers again."""
    before = {process.pid for process in replicas(service)}
    async with under_load(service) as load:
        in_flight = len(load.ledger.open)
        at = time.monotonic()
        act()
        if back is None:
            back = lambda: len({p.pid for p in replicas(service)} - before) >= 1 and len(replicas(service)) == 2  # noqa: E731
        await until(back, RECOVERY_S, f"{fault}: not back")
        await load.finished(4 * CLIENTS, 120)
        recovered = time.monotonic() - at
    row = told_apart(load.ledger, fault, path, at, in_flight, recovered)
    record(row)
    await until(lambda: slots(service) == 0, 60, f"{fault}: a slot is still taken")
    return row


def nothing_lost(row: Row) -> None:
    assert row.silent == 0, row
    # Only what was in flight when it happened: clients that asked again met a living replica.
    assert row.told + row.cut <= row.in_flight, row


async def test_a_killed_engine_core(pair: object) -> None:
    victim = cores(pair)[0]
    row = await strike(pair, "kill -9 of one engine core", victim.kill, "haproxy")
    nothing_lost(row)


async def test_a_killed_replica(pair: object) -> None:
    victim = replicas(pair)[0]
    row = await strike(pair, "kill -9 of one replica", victim.kill, "haproxy")
    nothing_lost(row)


async def test_a_killed_haproxy(pair: object) -> None:
    """Ray starts it again; until then nobody is reached, and every client sees that."""
    pids = {process.pid for process in named(pair, "haproxy -db")}

    def act() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        return bool({process.pid for process in named(pair, "haproxy -db")} - pids)

    row = await strike(pair, "kill -9 of HAProxy", act, "haproxy", back=back)
    assert row.silent == 0, row


async def test_a_killed_controller(pair: object) -> None:
    """Ray Serve's controller decides nothing for a request: no stream may notice."""
    victim = named(pair, "ServeController")[0]

    def back() -> bool:
        return bool({process.pid for process in named(pair, "ServeController")} - {victim.pid})

    row = await strike(pair, "kill -9 of Serve's controller", victim.kill, "haproxy", back=back)
    assert (row.told, row.cut, row.silent) == (0, 0, 0), row


async def test_a_stalled_engine_core(pair: object) -> None:
    """SIGSTOP for ten seconds: streams stand still and go on; none is lost."""
    victim = cores(pair)[0]
    woken = time.monotonic() + 10

    def act() -> None:
        victim.suspend()

    def back() -> bool:
        if time.monotonic() < woken:
            return False
        victim.resume()
        return True

    row = await strike(pair, "one engine core stopped for 10 s", act, "haproxy", back=back)
    assert (row.cut, row.silent) == (0, 0), row


async def test_every_process_ends_when_serve_is_told_to(pair: object) -> None:
    family = pair.family()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(pair.stop) == 0  # type: ignore[attr-defined]
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
