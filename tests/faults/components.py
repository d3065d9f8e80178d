"""The parts of a running stack, found to be broken; what they say of themselves; and a line of the table."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from ledger import Ledger

from support.stack_service import Service


@dataclass
class Row:
    """A line of the table. Times are seconds from the fault; `metric` and `alert` are what Prometheus saw, and when."""

    fault: str
    requests: int
    finished: int
    told: int
    cut: int
    silent: int
    in_flight: int
    first_failure_s: float | None
    last_failure_s: float | None
    all_back_s: float | None
    metric: str
    alert: str


def record(row: Row) -> None:
    """Keep it for scripts/fault_table.py."""
    name = os.environ.get("FAULT_ROWS")
    if name:
        with Path(name).open("a") as lines:
            lines.write(json.dumps(asdict(row)) + "\n")
    print(row)


def named(service: Service, *words: str) -> list[psutil.Process]:
    """Living processes of the service with one of these words in their title."""
    found = []
    for process in service.family():
        try:
            title = process.name() + " " + " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and any(word in title for word in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def replicas(service: Service) -> list[psutil.Process]:
    return named(service, "ServeReplica:hybridserve:engine")


def core_of(replica: psutil.Process) -> psutil.Process:
    """The core that this replica started: its largest descendant that started nothing itself.

    Titles do not always reach /proc, and the process that forks the core is as large as the core is.
    """
    leaves = [process for process in replica.children(recursive=True) if not process.children()]
    return max(leaves, key=lambda one: one.memory_info().rss)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def cores(service: Service) -> list[psutil.Process]:
    """Engine cores that have been loaded."""
    found = []
    for replica in replicas(service):
        try:
            core = core_of(replica)
            if core.memory_info().rss > 200 * 2**20:
                found.append(core)
        except (psutil.Error, ValueError):
            continue
    return found


def haproxy(service: Service) -> list[psutil.Process]:
    return named(service, "haproxy -db")


def servers_up(service: Service) -> int:
    """Replicas that HAProxy sends requests to, by its own statistics."""
    for process in haproxy(service):
        try:
            words = process.cmdline()
            text = Path(words[words.index("-f") + 1]).read_text()
            port = re.search(r"^listen stats\n\s+bind \S*:(\d+)", text, re.M)
            assert port is not None
            rows = httpx.get(f"http://127.0.0.1:{port[1]}/stats;csv", timeout=5).text.splitlines()
        except (psutil.Error, OSError, httpx.HTTPError, ValueError):
            continue
        head = rows[0].lstrip("# ").split(",")
        servers = [dict(zip(head, row.split(","), strict=False)) for row in rows[1:]]
        real = [one for one in servers if one["svname"] not in ("FRONTEND", "BACKEND") and one["bck"] == "0"]
        return sum(one["status"].startswith("UP") for one in real)
    return 0


def well(service: Service, count: int) -> bool:
    """So many replicas with a core each, and HAProxy sends them requests."""
    return servers_up(service) == len(replicas(service)) == len(cores(service)) == count


def slots(service: Service) -> float:
    """Running and waiting requests, over the replicas that answer."""
    total = 0.0
    for _ in range(6):  # whichever replica answers
        try:
            text = httpx.get(f"{service.url}/metrics", timeout=30).text
        except httpx.HTTPError:
            return 1.0
        for line in text.splitlines():
            if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{")):
                total += float(line.rsplit(" ", 1)[1])
    return total


async def until(what: Callable[[], bool], timeout_s: float, why: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not await asyncio.to_thread(what):
        if time.monotonic() - began > timeout_s:
            pytest.fail(f"{why} after {timeout_s:.0f} s")
        await asyncio.sleep(0.25)
    return time.monotonic() - began


def told_apart(
    ledger: Ledger, fault: str, at: float, in_flight: int, back: float | None, seen: tuple[str, str] = ("-", "-")
) -> Row:
    """The ledger as a line."""
    failed = [entry for entry in ledger.failed() if entry.ended >= at]
    counts = ledger.counts()
    return Row(
        fault=fault,
        requests=len(ledger.entries),
        finished=counts["finished"],
        told=counts["told"],
        cut=counts["cut"] + counts["refused"],
        silent=counts["silent"],
        in_flight=in_flight,
        first_failure_s=round(min(entry.ended for entry in failed) - at, 2) if failed else None,
        last_failure_s=round(max(entry.ended for entry in failed) - at, 2) if failed else None,
        all_back_s=None if back is None else round(back, 1),
        metric=seen[0],
        alert=seen[1],
    )
