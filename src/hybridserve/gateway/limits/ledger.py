"""Where the accounts of the keys are: in this process, or shared by all replicas (`RayLedger`, `RedisLedger`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from hybridserve.errors import not_installed
from hybridserve.files import read_text
from hybridserve.gateway.limits.leases import Accounts, Ask, Grant
from hybridserve.settings.access import AccessSection


class Ledger(Protocol):
    """The accounts of all keys."""

    async def exchange(self, replica: str, asks: Sequence[Ask]) -> list[Grant]:
        """Exchange for each of `asks`; without one, a report that this replica is there.

        Raises:
            Exception: any; the accounts cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class LocalLedger:
    """Accounts of this process alone."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._accounts = Accounts(began=clock())

    def exchange(self, ask: Ask) -> Grant:
        """Exchange without waiting."""
        return self._accounts.exchange("", (ask,), self._clock())[0]


def shared_ledger(settings: AccessSection, service: str) -> Ledger | None:
    """The ledger of `access.limits_url`; None without one.

    Args:
        service: name under which replicas share it.

    Raises:
        EnvironmentFault: the client is not installed.
        ConfigError: the password file cannot be read.
    """
    if settings.limits_url is None:
        return None
    try:
        from hybridserve.gateway.limits.redis_ledger import RedisLedger
    except ModuleNotFoundError as missing:
        raise not_installed(missing) or missing from None
    file = settings.limits_password_file
    password = read_text(file, "access.limits_password_file").strip() if file is not None else None
    return RedisLedger(settings.limits_url, service, password)
