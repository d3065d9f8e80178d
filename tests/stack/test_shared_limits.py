"""A key's limits over replicas that share a real Ray actor, or a real Redis server."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridserve.gateway.limits.ledger import Ledger
from hybridserve.settings.access import AccessSection
from support.limits_fleet import load
from support.prometheus_server import script
from support.stack_service import free_port

pytestmark = pytest.mark.stack

SECONDS = 6.0


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    programs, port = script("debian_tools").fetch("redis"), free_port()
    libraries = ":".join(str(folder) for folder in Path(programs).parent.glob("lib/*-linux-gnu"))
    command = [programs / "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(
        command, env={**os.environ, "LD_LIBRARY_PATH": libraries}, stdout=subprocess.PIPE, text=True,
        cwd=tmp_path_factory.mktemp("redis"),
    )  # fmt: skip
    assert process.stdout is not None
    assert any("Ready to accept connections" in line for line in process.stdout)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(params=["ray", "redis"])
def make_ledger(request: pytest.FixtureRequest) -> Callable[[], Ledger]:
    """Makes a client; all of them share the accounts of one service."""
    service = uuid.uuid4().hex
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        from hybridserve.engine.ray_limits import RayLedger

        return lambda: RayLedger(service)
    from hybridserve.gateway.limits.redis_ledger import RedisLedger

    url = request.getfixturevalue("redis_url")
    return lambda: RedisLedger(url, service)


@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.7, 0.1, 0.1, 0.1)], ids=["two", "four"])
@pytest.mark.parametrize(
    "limits", [{"requests_per_minute": 300}, {"tokens_per_minute": 15000}, {"max_streams": 10}], ids=lambda it: min(it)
)
async def test_limits_hold_over_replicas(
    make_ledger: Callable[[], Ledger], weights: tuple[float, ...], limits: dict[str, Any]
) -> None:
    settings = AccessSection(max_in_flight=None, **limits)
    outcome = await load([make_ledger] * len(weights), weights, settings, SECONDS)
    print(limits, weights, outcome)
    allowed = 1 + outcome.seconds / 60  # a full account and its refill
    if "requests_per_minute" in limits:
        assert outcome.requests == pytest.approx(300 * allowed, rel=0.1)
    elif "tokens_per_minute" in limits:
        assert outcome.tokens == pytest.approx(15000 * allowed, rel=0.1)
    else:
        assert outcome.most_streams <= 10
        assert outcome.mean_streams > 9


async def test_a_key_starts_again_after_a_lost_actor(ray_cluster: None) -> None:
    """Ray restarts the actor; its accounts begin empty, so nobody has a second allowance."""
    import ray

    from hybridserve.engine.ray_limits import NAME, RayLedger
    from hybridserve.gateway.limits.leases import Ask, KeyLimits, Lease

    service = uuid.uuid4().hex
    ledger, all_of_it = RayLedger(service), Lease(requests=600)
    ask = Ask("k", KeyLimits(requests=600), needed=all_of_it, wanted=all_of_it)
    assert (await ledger.exchange("a", [ask]))[0].lease.requests == 600
    ray.kill(ray.get_actor(NAME, namespace=service), no_restart=False)
    while True:
        try:
            (grant,) = await ledger.exchange("a", [ask])
            break
        except ray.exceptions.RayActorError:
            pass
    assert grant.lease.requests == 0
    assert grant.wait_s > 50
