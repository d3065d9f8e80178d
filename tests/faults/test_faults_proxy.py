"""Ray Serve's own proxy in place of HAProxy: the proxy, the replica and Ray's head process are killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from fault_run import SCRAPE_FAILED, Row, fault_under_load, known, replaced
from load import LoadGenerator
from processes import core_of, gone, named, replicas, until

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4
RECOVERY_S = 200.0
# A stream that hangs fails at the client's own timeout of 60 s, so this time tells it from a kill that missed.
FAILED_S = 75.0
FIRST_FAILURE_S = 30.0


@pytest.fixture(scope="module")
def proxied(start_watched: Callable[..., Any]) -> Any:
    return start_watched("proxy", engine__max_num_seqs=8)


async def strike(
    proxied: Any, fault: str, victim: psutil.Process, alert: str = "ReplicaLost", shows: str = SCRAPE_FAILED
) -> Row:
    """Kill the process, and keep the load on until requests finish again."""
    await until(lambda: known(proxied.prometheus, 1), 60, f"before {fault}: Prometheus does not know the replica")
    async with fault_under_load(proxied, fault, LoadGenerator(proxied.service.url, CLIENTS), alert, shows) as run:
        victim.kill()
        await until(lambda: gone(victim), 10, f"{fault}: the process runs on")
        await until(lambda: bool(run.load.log.failed()), FAILED_S, f"{fault}: no request failed")
        first = min(entry.ended for entry in run.load.log.failed()) - run.began
        reasons = sorted({entry.reason for entry in run.load.log.failed()})
        assert first < FIRST_FAILURE_S, f"streams hung for {first:.0f} s: {reasons}"
        await run.load.wait_for_finished(CLIENTS, RECOVERY_S)
        run.recovered()
        if alert == "ProxyReplaced":
            run.replaced()
    return run.row


async def test_killed_replica_loses_no_stream(proxied: Any) -> None:
    await strike(proxied, "proxy path: kill -9 of the only replica", replicas(proxied.service)[0])


async def test_killed_engine_core_loses_no_stream(proxied: Any) -> None:
    victim = core_of(replicas(proxied.service)[0])
    await strike(proxied, "proxy path: kill -9 of the only engine core", victim)


async def test_killed_proxy_is_replaced(proxied: Any) -> None:
    victim = named(proxied.service, "ProxyActor")[0]
    shows = replaced("ray_serve_num_ongoing_http_requests")
    row = await strike(proxied, "proxy path: kill -9 of Serve's proxy", victim, "ProxyReplaced", shows)
    assert row.recovered_s is not None
    assert row.recovered_s < 15, row


async def test_serve_exits_when_rays_head_process_dies(proxied: Any) -> None:
    """It cannot be replaced on one machine: `serve` reports it, ends every process, and exits with 2."""
    service = proxied.service
    family = service.family()
    fault = "kill -9 of Ray's head process (recovered: serve ended all processes and exited)"
    load = LoadGenerator(service.url, CLIENTS)
    async with fault_under_load(proxied, fault, load, "ReplicaLost", SCRAPE_FAILED, stays_up=False) as run:
        named(service, "gcs_server")[0].kill()
        code = await asyncio.to_thread(service.process.wait, 150)
        run.recovered()
    assert code == 2
    assert run.row.recovered_s is not None
    assert run.row.recovered_s < 30, run.row
    assert "Ray's gcs_server died" in service.process.stdout.read()
    assert [process for process in family if not gone(process)] == []
