"""Processes of a running stack and their state."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from support.stack_service import Service


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
    """The engine core of a replica: its largest descendant without children.

    Titles do not always reach /proc, and the process that forks the core is as large as the core.
    """
    leaves = [process for process in replica.children(recursive=True) if not process.children()]
    return max(leaves, key=lambda process: process.memory_info().rss)


def cores(service: Service) -> list[psutil.Process]:
    """Engine cores that have loaded their model."""
    found = []
    for replica in replicas(service):
        try:
            core = core_of(replica)
            if core.memory_info().rss > 200 * 2**20:
                found.append(core)
        except (psutil.Error, ValueError):
            continue
    return found


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        process.kill()


def haproxy(service: Service) -> list[psutil.Process]:
    return named(service, "haproxy -db")


def servers_up(service: Service) -> int:
    """Replicas that HAProxy sends requests to, by its own statistics."""
    for process in haproxy(service):
        try:
            words = process.cmdline()
            text = Path(words[words.index("-f") + 1]).read_text()
            port = re.search(r"^listen stats\n\s+bind \S*:(\d+)", text, re.M)
            if port is None:  # Ray is writing the file
                continue
            rows = httpx.get(f"http://127.0.0.1:{port[1]}/stats;csv", timeout=5).text.splitlines()
        except (psutil.Error, OSError, httpx.HTTPError, ValueError):
            continue
        head = rows[0].lstrip("# ").split(",")
        servers = [dict(zip(head, row.split(","), strict=False)) for row in rows[1:]]
        real = [
            server for server in servers if server["svname"] not in ("FRONTEND", "BACKEND") and server["bck"] == "0"
        ]
        return sum(server["status"].startswith("UP") for server in real)
    return 0


def all_serving(service: Service, count: int) -> bool:
    """Whether `count` replicas run, each with an engine core, and HAProxy sends them requests."""
    return servers_up(service) == len(replicas(service)) == len(cores(service)) == count


def open_requests(service: Service) -> float:
    """Running and waiting requests, over the replicas that answer."""
    total = 0.0
    for _ in range(6):  # HAProxy selects the replica
        try:
            text = httpx.get(f"{service.url}/metrics", timeout=30).text
        except httpx.HTTPError:
            return 1.0
        for line in text.splitlines():
            if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{")):
                total += float(line.rsplit(" ", 1)[1])
    return total


async def until(condition: Callable[[], bool], timeout_s: float, failure: str) -> None:
    """Wait for a condition; the test fails with `failure` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            pytest.fail(f"{failure} after {timeout_s:.0f} s")
        await asyncio.sleep(0.25)
