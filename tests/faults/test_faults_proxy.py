"""Ray Serve's own proxy in place of HAProxy: its death, a replica's, and that of Ray's head process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from ledger import Load
from parts import core_of, named, record, replicas, slots, told_apart, until
from watch import Watch

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(400)]

CLIENTS = 4
RECOVERY_S = 200.0
LOST = 'up{job="hybridserve"} == 0'


@pytest.fixture(scope="module")
def proxied(start_watched: Callable[..., Any]) -> Any:
    return start_watched("--data-path", "proxy", "--set", "engine.max_num_seqs=8")


async def strike(proxied: Any, fault: str, act: Callable[[], None], shows: str | None) -> Any:
    """The fault, and the load on until it is answered again."""
    service = proxied.service
    async with Load(service.url, CLIENTS) as load, Watch(proxied.prometheus, shows) as watch:
        await load.finished(2 * CLIENTS, 120)
        in_flight, at = len(load.ledger.open), time.monotonic()
        act()
        await until(lambda: bool(load.ledger.failed()), 60, f"{fault}: nobody noticed")
        await load.finished(CLIENTS, RECOVERY_S)
        back = time.monotonic() - at
    row = told_apart(load.ledger, fault, at, in_flight, back, watch.seen)
    record(row)
    await until(lambda: slots(service) == 0, 60, f"{fault}: a slot is still taken")
    return row


async def test_a_killed_replica_is_told_in_every_stream(proxied: Any) -> None:
    """The only replica: its streams must not end like whole ones, and new requests must not hang."""
    row = await strike(proxied, "proxy path: kill -9 of the only replica", replicas(proxied.service)[0].kill, LOST)
    assert row.silent == 0, row


async def test_a_killed_engine_core_is_told_in_every_stream(proxied: Any) -> None:
    victim = core_of(replicas(proxied.service)[0])
    row = await strike(proxied, "proxy path: kill -9 of the only engine core", victim.kill, LOST)
    assert row.silent == 0, row


async def test_a_killed_proxy(proxied: Any) -> None:
    victim = named(proxied.service, "ProxyActor")[0]
    row = await strike(proxied, "proxy path: kill -9 of Serve's proxy", victim.kill, None)
    assert row.silent == 0, row


async def test_rays_head_process(proxied: Any) -> None:
    """On one machine everything ends with it: `serve` says so, ends what is left, and exits with 2."""
    service = proxied.service
    family = service.family()
    victim = named(service, "gcs_server")[0]
    async with Load(service.url, CLIENTS) as load:
        await load.finished(2 * CLIENTS, 120)
        in_flight, at = len(load.ledger.open), time.monotonic()
        victim.kill()
        code = await asyncio.to_thread(service.process.wait, 150)
        ended = time.monotonic() - at
    row = told_apart(
        load.ledger, f"kill -9 of Ray's head process (serve exits after {ended:.0f} s)", at, in_flight, None
    )
    record(row)
    assert row.silent == 0, row
    assert code == 2
    alive = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert alive == []
