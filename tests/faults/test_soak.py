"""A long steady load: no stream is lost, memory and open files do not grow.

`make soak` runs it for SOAK_S seconds (600).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from load import LoadGenerator

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(4000)]

SECONDS = float(os.environ.get("SOAK_S", "600"))
STREAMS = int(os.environ.get("SOAK_STREAMS", "64"))
# Share of the memory after warm-up: allocators and caches settle, a leak continues.
GROWTH = 0.05
# Connections are kept open for a while after their last use; a few files are opened on first use and stay.
REST_S, FEW = 120.0, 30


def usage(service: Any) -> dict[str, int]:
    """Bytes of memory and open files of the replica, its engine core and HAProxy."""
    sums = {"rss": 0, "fds": 0}
    for process in service.family():
        try:
            title = process.name() + " ".join(process.cmdline()[:1])
            if any(word in title for word in ("ServeReplica", "VLLM::EngineCor", "haproxy")):
                sums["rss"] += process.memory_info().rss
                sums["fds"] += process.num_fds()
        except psutil.Error:
            continue
    return sums


async def test_soak_loses_no_stream_and_leaks_nothing(start_module_service: Callable[..., Any]) -> None:
    # Twice the streams: a client may send its next request before the slot of its last one is free.
    service = start_module_service("auto", access__max_in_flight=2 * STREAMS, engine__max_num_seqs=32)
    idle = usage(service)
    seen: list[dict[str, int]] = []
    async with LoadGenerator(service.url, STREAMS, tokens=60) as load:
        await load.wait_for_finished(2 * STREAMS, 300)
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            seen.append(await asyncio.to_thread(usage, service))
            await asyncio.sleep(min(5.0, SECONDS / 20))
    counts = load.log.counts()
    third = len(seen) // 3
    early, late = seen[third : 2 * third], seen[2 * third :]
    growth = statistics.median(w["rss"] for w in late) / statistics.median(w["rss"] for w in early) - 1
    # Under load files open and close with the connections; afterwards only leaked files are left.
    deadline = time.monotonic() + REST_S
    while (left_open := usage(service)["fds"] - idle["fds"]) > FEW and time.monotonic() < deadline:
        await asyncio.sleep(1)
    summary = {
        "seconds": round(time.monotonic() - began),
        "streams": STREAMS,
        "outcomes": dict(counts),
        "chunks": sum(entry.chunks for entry in load.log.entries),
        "rss_mib": round(seen[-1]["rss"] / 2**20),
        "rss_growth": round(growth, 4),
        "files_most": max(w["fds"] for w in seen),
        "files_left": left_open,
    }
    print(json.dumps(summary))
    assert set(counts) == {"finished"}, Counter(entry.reason for entry in load.log.failed())
    assert growth < GROWTH, summary
    assert left_open <= FEW, summary
    text = httpx.get(f"{service.url}/metrics", timeout=30).text
    left = [line for line in text.splitlines() if line.startswith("vllm:num_requests_") and not line.endswith(" 0.0")]
    assert left == []
