"""Rate and concurrency limits for each key, over all replicas that share a ledger.

A request spends credit that this process has leased, without a remote call. Only where that is not enough it waits for
the ledger, a millisecond or two. While the ledger cannot be reached, each replica applies an equal share of the limits.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic

from prometheus_client import Gauge

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.limits.account import NO_LIMITS, Account, Kind
from hybridserve.gateway.limits.leases import Ask, Grant, KeyLimits, Lease, spare
from hybridserve.gateway.limits.ledger import Ledger, LocalLedger
from hybridserve.settings.access import AccessSection

log = logging.getLogger("hybridserve.access")

# Every replica reports to a shared ledger in this interval; a stream that ended is reported after the second.
REPORT_S = 1.0
_RETURN_S = 0.02
# A request waits this long for a shared ledger, and the first report, which may create it, this long.
_TIMEOUT_S = 1.0
_CONNECT_S = 30.0
# After a refusal the ledger is not asked again for this long, so that a client in a loop costs few calls.
_REFUSED_S = 0.1

_MESSAGES: dict[Kind, tuple[str, str]] = {
    "requests": ("requests_per_minute", "Too many requests per minute for this API key."),
    "tokens": ("tokens_per_minute", "Too many tokens per minute for this API key."),
    "streams": ("max_streams", "Too many concurrent requests for this API key."),
}


class Reservation:
    """A concurrency slot and the tokens reserved for one generation."""

    __slots__ = ("_account", "_limits", "_open", "_slots", "_tokens")

    def __init__(self, limits: RequestLimits, account: Account, tokens: float, slots: int) -> None:
        self._limits = limits
        self._account = account
        self._tokens = tokens
        self._slots = slots
        self._open = True

    def release(self, used: int | None = None) -> bool:
        """Free the slot and settle the tokens; False if that was done before. `used` None keeps the reserved tokens."""
        if not self._open:
            return False
        self._open = False
        self._limits.running -= self._slots
        self._limits.release(self._account, 0.0 if used is None else self._tokens - used)
        return True


class RequestLimits:
    """Limits of all keys.

    Args:
        ledger: the accounts that all replicas share; None for accounts of this process.
        replicas: how many replicas there are at most; each applies this share of a limit while the ledger, which knows
            how many there are, cannot be reached.
        lost: set to 1 while the shared ledger cannot be reached.

    Attributes:
        running: client requests that run in this process now.
        shared: whether the limits are those of all replicas now.
    """

    def __init__(
        self,
        settings: AccessSection,
        clock: Callable[[], float] = monotonic,
        *,
        ledger: Ledger | None = None,
        replicas: int = 1,
        lost: Gauge | None = None,
    ) -> None:
        self.running = 0
        self._settings = settings
        self._version = 0
        self._clock = clock
        self._ledger = ledger
        self._local = LocalLedger(clock)
        self._replica = uuid.uuid4().hex
        self._replicas = replicas if ledger is not None else 1
        self._lost = lost
        self.shared = False
        self._connected = False
        self._first_report: asyncio.Event | None = None
        self._accounts: dict[str, Account] = {}
        self._ended: set[str] = set()
        self._wake = asyncio.Event()

    def apply(self, settings: AccessSection) -> None:
        """Use these limits from now on. Running requests stay counted."""
        self._settings = settings
        self._version += 1

    def counts_all(self) -> bool:
        """Whether every key has a limit."""
        settings = self._settings
        return any((settings.requests_per_minute, settings.tokens_per_minute, settings.max_streams))

    def counts_tokens(self, key: Key) -> bool:
        """Whether this key has a token limit, so that its usage must be known."""
        return not key.internal and (key.tpm or self._settings.tokens_per_minute) is not None

    async def count_request(self, key: Key) -> None:
        """Count one request of this key.

        Raises:
            APIError: 429, too many requests per minute.
        """
        account = self._account(key)
        if account.limits.requests is not None:
            if account.requests < 1:
                await self._draw(account, "requests", 1.0)
            account.requests -= 1

    async def reserve(self, key: Key, tokens: float) -> Reservation:
        """A slot for one generation that may use up to `tokens`.

        Raises:
            APIError: 429, too many concurrent requests or too many tokens per minute.
        """
        account = self._account(key)
        most, limits = self._settings.max_in_flight, account.limits
        if most is not None and self.running >= most and not key.internal:
            raise _rate_limited("max_in_flight", "Too many concurrent requests.", 1.0)
        # Guard self-tests use no client's slot: with max_in_flight 1 each of them would reject a client.
        slots = 0 if key.internal else 1
        self.running += slots
        try:
            if limits.streams is not None:
                if account.free < 1:
                    await self._draw(account, "streams", 1)
                account.free -= 1
            account.running += 1
            if limits.tokens is not None:
                tokens = min(tokens, limits.tokens)
                if account.tokens < tokens:
                    try:
                        await self._draw(account, "tokens", tokens)
                    except BaseException:
                        self.release(account, 0.0)
                        raise
                account.tokens -= tokens
        except BaseException:
            self.running -= slots
            raise
        return Reservation(self, account, tokens, slots)

    def release(self, account: Account, unused: float) -> None:
        """End a stream, and return reserved tokens that it did not use (negative: it used more)."""
        account.running -= 1
        streams = account.limits.streams
        if streams is not None and account.running + account.free < streams:
            account.free += 1
            if self._ledger is not None:
                self._ended.add(account.index)
                self._wake.set()
        if account.limits.tokens is not None:
            account.tokens += unused

    async def report(self, always: bool = True) -> None:
        """Tell the shared ledger what this replica holds, and return what it does not need.

        Args:
            always: also without a limited key, so that the ledger is there for the first request.
        """
        limited = [account for account in self._accounts.values() if account.limits != NO_LIMITS]
        if limited or always:
            await self._report(limited)

    async def run(self, always: bool) -> None:
        """Report to the shared ledger until cancelled; `always` as for `report`."""
        # Before it, a request would spend a share of this replica that others may have leased.
        first = self._first_report = asyncio.Event()
        while True:
            end = self._clock() + REPORT_S
            try:
                await self.report(always)
            finally:
                first.set()
            while (left := end - self._clock()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), left)
                    await asyncio.sleep(_RETURN_S)
                    self._wake.clear()
                    ended, self._ended = self._ended, set()
                    await self._report(self._accounts[index] for index in ended)

    # --- accounts

    def _account(self, key: Key) -> Account:
        index = key.name + key.digest[:8].hex()
        account = self._accounts.get(index)
        if account is None:
            account = self._accounts[index] = Account(index, key)
        if account.version != self._version or account.key is not key:
            settings = self._settings
            limits = KeyLimits(
                key.rpm or settings.requests_per_minute,
                key.tpm or settings.tokens_per_minute,
                key.streams or settings.max_streams,
            )
            if not key.internal and limits != account.limits:
                # What was leased under the old limits is not spent under new ones.
                account.limits, account.free = limits, 0
                account.requests, account.tokens = min(account.requests, 0.0), min(account.tokens, 0.0)
            account.version, account.key = self._version, key
        account.used = True
        return account

    async def _draw(self, account: Account, kind: Kind, needed: float) -> None:
        """Lease credit until there is `needed` of this kind.

        Raises:
            APIError: 429, the limit is reached.
        """
        if self._first_report is not None:
            await self._first_report.wait()
        if not self.shared:
            self._refuse(kind, self._draw_locally(account, kind, needed))
            return
        least, until, free_at = account.refused.get(kind, (0.0, 0.0, 0.0))
        now = self._clock()
        if now < until and needed >= least:
            self._refuse(kind, free_at - now)
        account.waiting += 1
        try:
            while not account.has(kind, needed):
                if account.call is not None:
                    await asyncio.shield(account.call)
                    continue
                account.call = asyncio.ensure_future(self._exchange(account, kind, needed))
                wait = await asyncio.shield(account.call)
                if wait:
                    now = self._clock()
                    account.refused[kind] = (needed, now + min(wait, _REFUSED_S), now + wait)
                self._refuse(kind, wait)
                if kind != "streams":
                    return  # what another request took meanwhile is overdrawn, and settled with the next exchange
        finally:
            account.waiting -= 1

    @staticmethod
    def _refuse(kind: Kind, wait: float) -> None:
        if wait:
            raise _rate_limited(*_MESSAGES[kind], wait)

    def _draw_locally(self, account: Account, kind: Kind, needed: float) -> float:
        """Draw from this process's own accounts, and keep all that there is: nobody else draws from them."""
        limits = account.limits.share(self._replicas)
        everything = Lease(limits.requests or 0, limits.tokens or 0, limits.streams or 0)
        grant = self._local.exchange(account.ask(limits, everything, kind, needed))
        account.book(grant.lease)
        local, more = account.local, grant.lease
        account.local = Lease(local.requests + more.requests, local.tokens + more.tokens)
        return grant.wait_s

    # --- the shared ledger

    async def _exchange(self, account: Account, kind: Kind, needed: float) -> float:
        """Draw from the shared ledger, or locally if it cannot be reached; seconds to wait."""
        ask = account.ask(account.limits, spare(account.limits, self._replicas), kind, needed)
        grants = await self._call([ask])
        account.call = None
        if grants is None:
            account.book(ask.returned)
            return self._draw_locally(account, kind, needed)
        account.book(grants[0].lease)
        return grants[0].wait_s

    async def _report(self, accounts: Iterable[Account]) -> None:
        """Report on some accounts.

        A question about an account waits for the one before it: the answer to that one changes what the replica holds.
        """
        free = [account for account in accounts if account.call is None]
        asks, before = [], []
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        for account in free:
            account.call = done
            before.append((account.requests, account.tokens))
            if not self.shared:  # else a key would have its share and then its whole limit
                account.owe_local(account.limits.share(self._replicas))
            active = account.used or account.running
            kept = spare(account.limits, self._replicas) if active else Lease()
            asks.append(account.ask(account.limits, kept))
            account.used = False
        try:
            grants = await self._call(asks)
        finally:
            done.set_result(0.0)
            for account in free:
                account.call = None
        for account, credit in zip(free, before, strict=True):
            if grants is None:
                account.requests, account.tokens = credit
            else:
                account.local = Lease()

    async def _call(self, asks: list[Ask]) -> list[Grant] | None:
        """Exchange; None if the ledger cannot be reached, which `run` tries every second."""
        assert self._ledger is not None
        try:
            async with asyncio.timeout(_TIMEOUT_S if self._connected else _CONNECT_S):
                grants = await self._ledger.exchange(self._replica, asks)
        except Exception as error:  # whatever it is, limits must go on
            if self.shared or not self._connected:
                log.error("limits_ledger_lost", extra={"error": type(error).__name__, "replicas": self._replicas})
            self._set_up(False)
            return None
        if not self.shared:
            log.info("limits_ledger_reached")
            self._connected = True
        self._set_up(True)
        if grants:
            self._replicas = max(1, grants[0].replicas)
        return grants

    def _set_up(self, up: bool) -> None:
        self.shared = up
        if self._lost is not None:
            self._lost.set(float(not up))


def _rate_limited(reason: str, message: str, wait_s: float) -> APIError:
    return APIError(429, "rate_limit_exceeded", message, reason=reason, retry_after_s=wait_s)
