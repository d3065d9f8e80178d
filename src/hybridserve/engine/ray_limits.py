"""Shared limits in a named Ray actor, which the first replica that needs it creates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any

import ray

from hybridserve.gateway.limits.leases import Accounts, Ask, Grant

NAME = "hybridserve-limits"


class LimitsActor:
    """The accounts of all keys. Ray restarts it when it dies; it then begins with empty accounts."""

    def __init__(self) -> None:
        lost = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._accounts = Accounts(lost=lost, began=monotonic())

    def exchange(self, replica: str, asks: Sequence[Ask]) -> list[Grant]:
        return self._accounts.exchange(replica, asks, monotonic())


class RayLedger:
    """Client of the actor of a Ray namespace.

    Args:
        namespace: that of the application whose replicas share their limits.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actor: Any = None

    async def exchange(self, replica: str, asks: Sequence[Ask]) -> list[Grant]:
        """As `Ledger.exchange`. Raises RayError."""
        if self._actor is None:
            self._actor = await asyncio.to_thread(self._find)
        grants: list[Grant] = await self._actor.exchange.remote(replica, list(asks))
        return grants

    async def close(self) -> None:
        """The actor belongs to all replicas."""

    def _find(self) -> Any:
        options = {"name": NAME, "namespace": self._namespace, "get_if_exists": True, "lifetime": "detached"}
        return ray.remote(LimitsActor).options(**options, num_cpus=0, max_restarts=-1).remote()
