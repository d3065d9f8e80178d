"""Ray Serve's own proxy in place of HAProxy: its death, a replica's, and that of Ray's head process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from components import core_of, named, record, replicas, slots, told_apart, until
from ledger import Load
from watch import LOST, SEEN_S, Watch, known, replaced

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4
RECOVERY_S = 200.0


@pytest.fixture(scope="module")
def proxied(start_watched: Callable[..., Any]) -> Any:
    return start_watched("--data-path", "proxy", "--set", "engine.max_num_seqs=8")


async def strike(
    proxied: Any, fault: str, act: Callable[[], None], alert: str = "ReplicaLost", shows: str = LOST
) -> Any:
    """The fault, and the load on until it is answered again."""
    service = proxied.service
    await until(lambda: known(proxied.prometheus, 1), 60, f"before {fault}: Prometheus does not know the replica")
    async with Load(service.url, CLIENTS) as load, Watch(proxied.prometheus, shows, alert) as watch:
        await load.finished(2 * CLIENTS, 120)
        in_flight, at = len(load.ledger.open), time.monotonic()
        act()
        await until(lambda: bool(load.ledger.failed()), 60, f"{fault}: nobody noticed")
        await load.finished(CLIENTS, RECOVERY_S)
        back = time.monotonic() - at
        await until(lambda: watch.saw(alert), RECOVERY_S, f"{fault}: not seen by metric and alert, {watch.seen}")
    row = told_apart(load.ledger, fault, at, in_flight, back, watch.seen)
    record(row)
    assert watch.metric_s is not None
    assert watch.metric_s < SEEN_S, row
    await until(lambda: slots(service) == 0, 60, f"{fault}: a slot is still taken")
    return row


async def test_a_killed_replica_is_told_in_every_stream(proxied: Any) -> None:
    """The only replica: its streams must not end like whole ones, and new requests must not hang."""
    row = await strike(proxied, "proxy path: kill -9 of the only replica", replicas(proxied.service)[0].kill)
    assert row.silent == 0, row


async def test_a_killed_engine_core_is_told_in_every_stream(proxied: Any) -> None:
    victim = core_of(replicas(proxied.service)[0])
    row = await strike(proxied, "proxy path: kill -9 of the only engine core", victim.kill)
    assert row.silent == 0, row


async def test_a_killed_proxy(proxied: Any) -> None:
    victim = named(proxied.service, "ProxyActor")[0]
    shows = replaced("ray_serve_num_ongoing_http_requests")
    row = await strike(proxied, "proxy path: kill -9 of Serve's proxy", victim.kill, "ProxyReplaced", shows)
    assert row.silent == 0, row
    assert row.all_back_s is not None
    assert row.all_back_s < 15, row


async def test_rays_head_process(proxied: Any) -> None:
    """On one machine everything ends with it: `serve` says so, ends what is left, and exits with 2."""
    service = proxied.service
    family = service.family()
    victim = named(service, "gcs_server")[0]
    async with Load(service.url, CLIENTS) as load, Watch(proxied.prometheus, LOST, "ReplicaLost") as watch:
        await load.finished(2 * CLIENTS, 120)
        in_flight, at = len(load.ledger.open), time.monotonic()
        victim.kill()
        code = await asyncio.to_thread(service.process.wait, 150)
        ended = time.monotonic() - at
        await until(lambda: watch.saw("ReplicaLost"), 30, f"not seen by metric and alert, {watch.seen}")
    fault = "kill -9 of Ray's head process (back: serve has ended all and exited)"
    record(row := told_apart(load.ledger, fault, at, in_flight, ended, watch.seen))
    assert row.silent == 0, row
    assert code == 2
    assert ended < 30, row
    assert "Ray's gcs_server died" in service.process.stdout.read()
    alive = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert alive == []
