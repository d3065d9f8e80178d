"""Replicas that share limits, under load in real time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.limits.ledger import Ledger
from hybridserve.gateway.limits.rate_limit import RequestLimits
from hybridserve.settings.access import AccessSection


@dataclass
class Outcome:
    """What passed in `seconds`, and the streams that ran at once: the most, and the mean of the second half."""

    seconds: float
    requests: int
    tokens: int
    most_streams: int
    mean_streams: float
    slowest_s: float


async def load(
    ledgers: Sequence[Callable[[], Ledger]], weights: Sequence[float], settings: AccessSection, seconds: float
) -> Outcome:
    """Send about 250 requests a second to replicas by `weights`, one replica for each ledger.

    A request that passes runs up to 0.4 s and uses up to 100 tokens, of which 100 are reserved.
    """
    key, rng = Key("user", frozenset({"inference"})), random.Random(5)
    clients = [make() for make in ledgers]
    replicas = [RequestLimits(settings, ledger=client, replicas=len(clients)) for client in clients]
    reports = [asyncio.create_task(replica.run(always=True)) for replica in replicas]
    async with asyncio.timeout(60):
        while not all(replica.shared for replica in replicas):
            await asyncio.sleep(0.1)
    running, levels, outcome = 0, [], Outcome(0, 0, 0, 0, 0, 0)

    async def one(replica: RequestLimits) -> None:
        nonlocal running
        start = time.perf_counter()
        with suppress(APIError):
            await replica.count_request(key)
            reservation = await replica.reserve(key, 100)
            outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - start)
            outcome.requests += 1
            running += 1
            await asyncio.sleep(rng.uniform(0.05, 0.4))
            used = rng.randint(1, 100)
            outcome.tokens += used
            running -= 1
            reservation.release(used)

    began, tasks = time.monotonic(), []
    while time.monotonic() - began < seconds:
        tasks.append(asyncio.create_task(one(rng.choices(replicas, weights)[0])))
        await asyncio.sleep(0.004)
        levels.append(running)
    outcome.seconds = time.monotonic() - began
    await asyncio.gather(*tasks)
    outcome.most_streams = max(levels)
    outcome.mean_streams = sum(levels[len(levels) // 2 :]) / (len(levels) - len(levels) // 2)
    for report in reports:
        report.cancel()
    for client in clients:
        await client.close()
    return outcome
