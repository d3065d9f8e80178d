"""Shared limits in Redis or Valkey, for replicas that share no Ray cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import astuple

from redis.asyncio import Redis
from redis.exceptions import WatchError

from hybridserve.gateway.limits.leases import EXPIRY_S, Ask, Grant, KeyAccount, Lease

# A key that is not used for this long has no account any more, and its full allowance.
_KEPT_S = 3600


class RedisLedger:
    """One value for each key, changed in transactions that are repeated when another replica was faster.

    The time is the server's, so that clocks of replicas need not agree.

    Args:
        url: such as ``redis://limits:6379/0``.
        service: replicas with the same service share their limits.
    """

    def __init__(self, url: str, service: str, password: str | None = None) -> None:
        self._redis = Redis.from_url(url, password=password, decode_responses=True)
        self._prefix = f"hybridserve:limits:{service}"

    async def exchange(self, replica: str, asks: Sequence[Ask]) -> list[Grant]:
        """As `Ledger.exchange`. Raises RedisError or OSError."""
        replicas = await self._count(replica)
        granted = await asyncio.gather(*(self._exchange(replica, ask) for ask in asks))
        return [Grant(lease, wait, replicas) for lease, wait in granted]

    async def close(self) -> None:
        await self._redis.aclose()

    async def _count(self, replica: str) -> int:
        """Report this replica; returns how many have reported lately."""
        name, now = f"{self._prefix}:replicas", await self._now()
        async with self._redis.pipeline() as pipe:
            pipe.zadd(name, {replica: now})
            pipe.zremrangebyscore(name, 0, now - EXPIRY_S)
            pipe.zcard(name)
            pipe.expire(name, _KEPT_S)
            return int((await pipe.execute())[2])

    async def _exchange(self, replica: str, ask: Ask) -> tuple[Lease, float]:
        name = f"{self._prefix}:key:{ask.key}"
        async with self._redis.pipeline() as pipe:
            while True:
                try:
                    await pipe.watch(name)
                    text, now = await pipe.get(name), await self._now()
                    assert not isinstance(text, bytes)
                    account = _account(text) if text else KeyAccount(updated=now)
                    granted = account.exchange(replica, ask, now)
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.set(name, _text(account), ex=_KEPT_S)
                    await pipe.execute()
                    return granted
                except WatchError:
                    continue

    async def _now(self) -> float:
        seconds, microseconds = await self._redis.time()
        return float(seconds) + float(microseconds) / 1e6


def _text(account: KeyAccount) -> str:
    held = {name: [astuple(lease), seen] for name, (lease, seen) in account.held.items()}
    return json.dumps([account.requests, account.tokens, account.updated, held])


def _account(text: str) -> KeyAccount:
    requests, tokens, updated, held = json.loads(text)
    return KeyAccount(requests, tokens, updated, {name: (Lease(*row), seen) for name, (row, seen) in held.items()})
