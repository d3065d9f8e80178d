"""Two replicas behind HAProxy: components are killed, paused and broken under a steady load of streams.

`make test-faults` runs them and writes the table of docs/evidence/faults.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import pytest
from fault_run import SCRAPE_FAILED, Row, fault_under_load, known, replaced
from load import LoadGenerator
from processes import all_serving, core_of, gone, haproxy, kill, named, replicas, servers_up, until

pytestmark = [pytest.mark.stack, pytest.mark.fault, pytest.mark.timeout(600)]

CLIENTS = 6
# A replica starts beside another one under load on two busy cores: measured 28 s, with a margin.
RECOVERY_S = 200.0
STALL_S = 8
PORT_TAKEN_S = 10
PROXIES = replaced("ray_serve_haproxy_process_count")
CONTROL_LOOPS = replaced("ray_serve_controller_num_control_loops")


@pytest.fixture(scope="module")
def pair(start_watched: Callable[..., Any]) -> Any:
    return start_watched(
        "haproxy",
        scaling__min_replicas=2,
        scaling__max_replicas=2,
        engine__max_num_seqs=8,
        server__stall_timeout_s=STALL_S,
    )


async def strike(
    pair: Any, fault: str, act: Callable[[], None], ended: Sequence[psutil.Process], alert: str = "ReplicaLost",
    shows: str = SCRAPE_FAILED, back: Callable[[], bool] | None = None,
) -> Row:  # fmt: skip
    """Cause the fault under load, which must end the processes `ended`, and keep the load on until recovery.

    `back` says whether the process runs whose metrics show the fault, where that is the new one.
    """
    await until(lambda: all_serving(pair.service, 2), RECOVERY_S, f"before {fault}: not serving")
    await until(lambda: known(pair.prometheus, 2), 60, f"before {fault}: Prometheus does not know both replicas")
    async with fault_under_load(pair, fault, LoadGenerator(pair.service.url, CLIENTS), alert, shows) as run:
        act()
        await until(lambda: all(map(gone, ended)), 60, f"{fault}: no process ended")
        if back:
            await until(back, 60, f"{fault}: no new process")
            run.replaced()
        await until(lambda: all_serving(pair.service, 2), RECOVERY_S, f"{fault}: not recovered")
        run.recovered()
        await run.load.wait_for_finished(2 * CLIENTS, 120)
    return run.row


def proxied(pair: Any) -> bool:
    """Whether HAProxy runs and sends requests to both replicas."""
    return servers_up(pair.service) == 2


async def test_killed_engine_core_fails_only_its_requests(pair: Any) -> None:
    replica = replicas(pair.service)[0]
    row = await strike(pair, "kill -9 of one engine core", core_of(replica).kill, [replica])
    assert row.harmed <= row.in_flight, row


async def test_killed_replica_fails_only_its_requests(pair: Any) -> None:
    victim = replicas(pair.service)[0]
    core = core_of(victim)
    row = await strike(pair, "kill -9 of one replica", victim.kill, [victim])
    assert row.harmed <= row.in_flight, row
    assert gone(core), "its engine core outlived it"


async def test_killed_haproxy_is_restarted(pair: Any) -> None:
    victims = haproxy(pair.service)
    row = await strike(
        pair, "kill -9 of HAProxy", lambda: kill(victims), victims, "ProxyReplaced", PROXIES, back=lambda: proxied(pair)
    )
    assert row.last_failure_s is not None
    assert row.last_failure_s < 25, row


async def test_haproxy_returns_when_its_port_is_free_again(pair: Any) -> None:
    victims, port = haproxy(pair.service), int(pair.service.url.rsplit(":", 1)[1])

    def act() -> None:
        kill(victims)
        threading.Thread(target=occupy_port, args=(port, PORT_TAKEN_S)).start()

    fault = f"HAProxy's port taken for {PORT_TAKEN_S} s"
    row = await strike(pair, fault, act, victims, "ProxyReplaced", PROXIES, back=lambda: proxied(pair))
    assert row.last_failure_s is not None
    assert row.last_failure_s < PORT_TAKEN_S + 25, row


def occupy_port(port: int, seconds: float) -> None:
    """Bind the port as soon as it is free, and close every connection."""
    deadline = time.monotonic() + seconds
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
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()


async def test_killed_controller_harms_no_request(pair: Any) -> None:
    victim = named(pair.service, "ServeController")[0]
    before = {process.pid for process in replicas(pair.service)}
    fault = "kill -9 of Serve's controller"
    row = await strike(
        pair, fault, victim.kill, [victim], "ControllerReplaced", CONTROL_LOOPS,
        back=lambda: bool(named(pair.service, "ServeController")),
    )  # fmt: skip
    assert row.harmed == 0, row
    await asyncio.sleep(10)  # the new controller checks the health of every replica
    assert {process.pid for process in replicas(pair.service)} == before


async def test_short_stall_harms_no_request(pair: Any) -> None:
    """SIGSTOP for less than the stall timeout: streams pause and continue."""
    await until(lambda: all_serving(pair.service, 2), RECOVERY_S, "before the stall: not serving")
    victim = core_of(replicas(pair.service)[0])
    fault = f"one engine core stopped for {STALL_S / 2:g} s"
    async with fault_under_load(pair, fault, LoadGenerator(pair.service.url, CLIENTS)) as run:
        victim.suspend()
        await asyncio.sleep(STALL_S / 2)
        victim.resume()
        await run.load.wait_for_finished(4 * CLIENTS, 120)
    assert run.row.harmed == 0, run.row
    assert victim.is_running()


async def test_stalled_engine_core_is_replaced(pair: Any) -> None:
    """SIGSTOP for good: after server.stall_timeout_s the replica ends itself and the stopped core."""
    replica = replicas(pair.service)[0]
    victim = core_of(replica)
    fault = f"one engine core stopped for good (stall timeout {STALL_S} s)"
    shows = f"hybridserve_engine_stats_age_seconds > 3 or {SCRAPE_FAILED}"
    row = await strike(pair, fault, victim.suspend, [replica], shows=shows)
    assert row.harmed <= row.in_flight, row
    assert gone(victim), "the stopped core outlived its replica"


async def test_both_engine_cores_are_replaced(pair: Any) -> None:
    both = replicas(pair.service)
    victims = [core_of(replica) for replica in both]
    await strike(pair, "kill -9 of both engine cores", lambda: kill(victims), both)


async def test_stop_ends_every_process(pair: Any) -> None:
    assert servers_up(pair.service) == 2
    family = pair.service.family()
    assert await asyncio.to_thread(pair.service.stop) == 0
    assert [process for process in family if not gone(process)] == []
