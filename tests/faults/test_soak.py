"""A long steady load at as many streams as this machine holds: no stream is lost, nothing grows.

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
from ledger import Load

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(4000)]

SECONDS = float(os.environ.get("SOAK_S", "600"))
STREAMS = int(os.environ.get("SOAK_STREAMS", "64"))
# Of what was there after warming up; allocators and caches settle, a leak goes on.
GROWTH = 0.05


def weight(service: Any) -> dict[str, int]:
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


async def test_nothing_is_lost_and_nothing_grows(start_module_service: Callable[..., Any]) -> None:
    # Twice the streams: a client that has read its last byte may be back before its place is given back.
    service = start_module_service("--set", f"access.max_in_flight={2 * STREAMS}", "--set", "engine.max_num_seqs=32")
    seen: list[dict[str, int]] = []
    async with Load(service.url, STREAMS, tokens=60) as load:
        await load.finished(2 * STREAMS, 300)
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            seen.append(await asyncio.to_thread(weight, service))
            await asyncio.sleep(min(5.0, SECONDS / 20))
    counts = load.ledger.counts()
    third = len(seen) // 3
    early, late = seen[third : 2 * third], seen[2 * third :]
    growth = {
        name: statistics.median(w[name] for w in late) / statistics.median(w[name] for w in early) - 1
        for name in ("rss", "fds")
    }
    summary = {
        "seconds": round(time.monotonic() - began),
        "streams": STREAMS,
        "outcomes": dict(counts),
        "pieces": sum(entry.pieces for entry in load.ledger.entries),
        "rss_mib": round(seen[-1]["rss"] / 2**20),
        "growth": {name: round(value, 4) for name, value in growth.items()},
    }
    print(json.dumps(summary))
    assert set(counts) == {"finished"}, Counter(entry.why for entry in load.ledger.failed())
    assert growth["rss"] < GROWTH, summary
    assert growth["fds"] < GROWTH, summary
    text = httpx.get(f"{service.url}/metrics", timeout=30).text
    left = [line for line in text.splitlines() if line.startswith("vllm:num_requests_") and not line.endswith(" 0.0")]
    assert left == []
