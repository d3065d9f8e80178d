"""Faults under a steady load of streams: who noticed, who lost what, and how long until all was well again.

`make test-faults` runs them and writes the table of docs/evidence/faults.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from components import Row, core_of, gone, haproxy, named, record, replicas, servers_up, slots, told_apart, until, well
from ledger import Load
from watch import LOST, SEEN_S, Watch, known, replaced

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(600)]

CLIENTS = 6
# A replica starts beside another one under load on two busy cores; measured 28 s on them, with room for a busy machine.
RECOVERY_S = 200.0
STALL_S = 8
SQUAT_S = 10
PROXIES = replaced("ray_serve_haproxy_process_count")
LOOPS = replaced("ray_serve_controller_num_control_loops")


@pytest.fixture(scope="module")
def pair(start_watched: Callable[..., Any]) -> Any:
    """Two replicas behind HAProxy, watched, with little patience for an engine that says nothing."""
    two = ["scaling.min_replicas=2", "scaling.max_replicas=2", "engine.max_num_seqs=8",
           f"server.stall_timeout_s={STALL_S}"]  # fmt: skip
    return start_watched("--data-path", "haproxy", *[word for value in two for word in ("--set", value)])


@asynccontextmanager
async def under_load(service: Any) -> AsyncIterator[Load]:
    async with Load(service.url, CLIENTS) as load:
        await load.finished(2 * CLIENTS, 120)
        yield load


async def strike(
    pair: Any,
    fault: str,
    act: Callable[[], None],
    ends: Sequence[psutil.Process],
    alert: str = "ReplicaLost",
    shows: str = LOST,
    seen_s: float = SEEN_S,
) -> Row:
    """The fault under load, which must end the processes `ends`; the load goes on until all is well again."""
    service = pair.service
    await until(lambda: well(service, 2), RECOVERY_S, f"before {fault}: not well")
    await until(lambda: known(pair.prometheus, 2), 60, f"before {fault}: Prometheus does not know both")
    async with under_load(service) as load, Watch(pair.prometheus, shows, alert) as watch:
        in_flight = len(load.ledger.open)
        at = time.monotonic()
        act()
        await until(lambda: all(map(gone, ends)), 60, f"{fault}: nothing happened")
        await until(lambda: well(service, 2), RECOVERY_S, f"{fault}: not back")
        recovered = time.monotonic() - at
        await load.finished(2 * CLIENTS, 120)
        await until(lambda: watch.saw(alert), seen_s, f"{fault}: not seen by metric and alert, {watch.seen}")
    row = told_apart(load.ledger, fault, at, in_flight, recovered, watch.seen)
    record(row)
    assert watch.metric_s is not None
    assert watch.metric_s < seen_s, row
    await until(lambda: slots(service) == 0, 60, f"{fault}: a slot is still taken")
    return row


def kill(victims: Sequence[psutil.Process]) -> None:
    for victim in victims:
        victim.kill()


def nothing_lost(row: Row) -> None:
    assert row.silent == 0, row
    # Only what was in flight when it happened: clients that asked again met a living replica.
    assert row.told + row.cut <= row.in_flight, row


async def test_a_killed_engine_core(pair: Any) -> None:
    replica = replicas(pair.service)[0]
    row = await strike(pair, "kill -9 of one engine core", core_of(replica).kill, [replica])
    nothing_lost(row)


async def test_a_killed_replica(pair: Any) -> None:
    victim = replicas(pair.service)[0]
    core = core_of(victim)
    row = await strike(pair, "kill -9 of one replica", victim.kill, [victim])
    nothing_lost(row)
    assert gone(core), "its core outlived it"


async def test_a_killed_haproxy(pair: Any) -> None:
    """Ray starts it again; until then nobody is reached, and every client sees that."""
    victims = haproxy(pair.service)
    row = await strike(pair, "kill -9 of HAProxy", lambda: kill(victims), victims, "ProxyReplaced", PROXIES)
    assert row.silent == 0, row
    assert row.last_failure_s is not None
    assert row.last_failure_s < 25, row


async def test_a_port_that_is_lost(pair: Any) -> None:
    """Somebody else listens where HAProxy did: it comes back by itself when that one has gone."""
    victims, port = haproxy(pair.service), int(pair.service.url.rsplit(":", 1)[1])

    def act() -> None:
        kill(victims)
        threading.Thread(target=squat, args=(port, SQUAT_S)).start()

    # What shows is the new HAProxy: until it is there nobody is reached, and nothing of Ray's tells.
    fault, seen_s = f"HAProxy's port taken for {SQUAT_S} s", SQUAT_S + SEEN_S
    row = await strike(pair, fault, act, victims, "ProxyReplaced", PROXIES, seen_s)
    assert row.silent == 0, row
    assert row.last_failure_s is not None
    assert row.last_failure_s < SQUAT_S + 25, row


def squat(port: int, seconds: float) -> None:
    """Take the port as soon as it is free, and turn every client away."""
    until_s = time.monotonic() + seconds
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            try:
                listener.bind(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.002)
        listener.listen(64)
        listener.settimeout(0.2)
        while time.monotonic() < until_s:
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()


async def test_a_killed_controller(pair: Any) -> None:
    """Ray Serve's controller decides nothing for a request: no stream may notice."""
    victim = named(pair.service, "ServeController")[0]
    kept = {process.pid for process in replicas(pair.service)}
    row = await strike(pair, "kill -9 of Serve's controller", victim.kill, [victim], "ControllerReplaced", LOOPS)
    assert (row.told, row.cut, row.silent) == (0, 0, 0), row
    await asyncio.sleep(10)  # the new one asks every replica how it is
    assert {process.pid for process in replicas(pair.service)} == kept


async def test_a_short_stall(pair: Any) -> None:
    """SIGSTOP for less than the patience: streams stand still and go on; none is lost."""
    service = pair.service
    await until(lambda: well(service, 2), RECOVERY_S, "before the stall: not well")
    victim = core_of(replicas(service)[0])
    async with under_load(service) as load, Watch(pair.prometheus, None) as watch:
        in_flight, at = len(load.ledger.open), time.monotonic()
        victim.suspend()
        await asyncio.sleep(STALL_S / 2)
        victim.resume()
        await load.finished(4 * CLIENTS, 120)
    row = told_apart(load.ledger, f"one engine core stopped for {STALL_S / 2:g} s", at, in_flight, None, watch.seen)
    record(row)
    assert (row.told, row.cut, row.silent) == (0, 0, 0), row
    assert victim.is_running()


async def test_a_stalled_engine_core(pair: Any) -> None:
    """SIGSTOP for good: after server.stall_timeout_s its replica ends itself and the stopped core, and is replaced."""
    replica = replicas(pair.service)[0]
    victim = core_of(replica)
    row = await strike(
        pair, f"one engine core stopped for good (patience {STALL_S} s)", victim.suspend, [replica],
        shows=f"hybridserve_engine_stats_age_seconds > 3 or {LOST}",
    )  # fmt: skip
    nothing_lost(row)
    assert gone(victim), "the stopped core outlived its replica"


async def test_everything_at_once(pair: Any) -> None:
    """Both engine cores: nobody is served until one is back, clients are told so, and it comes back by itself."""
    both = replicas(pair.service)
    victims = [core_of(one) for one in both]
    row = await strike(pair, "kill -9 of both engine cores", lambda: kill(victims), both)
    assert row.silent == 0, row


async def test_every_process_ends_when_serve_is_told_to(pair: Any) -> None:
    assert servers_up(pair.service) == 2
    family = pair.service.family()
    assert await asyncio.to_thread(pair.service.stop) == 0
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
