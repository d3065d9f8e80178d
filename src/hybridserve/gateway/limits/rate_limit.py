"""Rate limits (token buckets) and concurrency limits for each key.

The state is this process's own: with several replicas, a key's total is its limit times the replicas that serve it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.settings.access import AccessSection


class TokenBucket:
    """A token bucket that refills evenly with `per_minute` and has that capacity."""

    __slots__ = ("_capacity", "_clock", "_level", "_rate", "_updated")

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._capacity = float(per_minute)
        self._rate = per_minute / 60.0
        self._clock = clock
        self._level = self._capacity
        self._updated = clock()

    def take(self, amount: float) -> float:
        """Take `amount` and return 0, or take nothing and return the seconds until it would fit.

        An amount above the capacity counts as the capacity, so that it is possible with a full bucket.
        """
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._updated) * self._rate)
        self._updated = now
        amount = min(amount, self._capacity)
        if amount > self._level:
            return (amount - self._level) / self._rate
        self._level -= amount
        return 0.0

    def settle(self, reserved: float, used: float) -> None:
        """Return what was reserved and not used; use beyond the reservation becomes a debt."""
        self._level = min(self._capacity, self._level + min(reserved, self._capacity) - used)


@dataclass(slots=True)
class _Account:
    """Limits and running requests of one key. A stale account takes new limits from the settings when it is used."""

    requests: TokenBucket | None = None
    tokens: TokenBucket | None = None
    streams: int | None = None
    running: int = 0
    stale: bool = True


class Reservation:
    """A concurrency slot and the tokens reserved for one generation."""

    __slots__ = ("_account", "_limits", "_open", "_slots", "_tokens")

    def __init__(self, limits: RequestLimits, account: _Account, tokens: float, slots: int) -> None:
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
        self._account.running -= 1
        self._limits.running -= self._slots
        if self._account.tokens is not None and used is not None:
            self._account.tokens.settle(self._tokens, used)
        return True


class RequestLimits:
    """Limits of all keys in this process. `running` is the number of client requests that run now."""

    def __init__(self, settings: AccessSection, clock: Callable[[], float] = monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._accounts: dict[tuple[str, bytes], _Account] = {}
        self.running = 0

    def apply(self, settings: AccessSection) -> None:
        """Use these limits from now on. Running requests stay counted; buckets start full."""
        self._settings = settings
        for account in self._accounts.values():
            account.stale = True

    def counts_tokens(self, key: Key) -> bool:
        """Whether this key has a token limit, so that its usage must be known."""
        return not key.internal and (key.tpm or self._settings.tokens_per_minute) is not None

    def count_request(self, key: Key) -> None:
        """Count one request of this key.

        Raises:
            APIError: 429, too many requests per minute.
        """
        account = self._account(key)
        if account.requests is not None and (wait := account.requests.take(1)):
            raise _rate_limited("requests_per_minute", "Too many requests per minute for this API key.", wait)

    def reserve(self, key: Key, tokens: float) -> Reservation:
        """A slot for one generation that may use up to `tokens`.

        Raises:
            APIError: 429, too many concurrent requests or too many tokens per minute.
        """
        account = self._account(key)
        limit = self._settings.max_in_flight
        if limit is not None and self.running >= limit and not key.internal:
            raise _rate_limited("max_in_flight", "Too many concurrent requests.", 1.0)
        if account.streams is not None and account.running >= account.streams:
            raise _rate_limited("max_streams", "Too many concurrent requests for this API key.", 1.0)
        if account.tokens is not None and (wait := account.tokens.take(tokens)):
            raise _rate_limited("tokens_per_minute", "Too many tokens per minute for this API key.", wait)
        # Guard self-tests use no client's slot: with max_in_flight 1 each of them would reject a client.
        slots = 0 if key.internal else 1
        account.running += 1
        self.running += slots
        return Reservation(self, account, tokens, slots)

    def _account(self, key: Key) -> _Account:
        # A key that was changed in the file gets a new account: one full bucket, and no bookkeeping.
        index = (key.name, key.digest)
        account = self._accounts.get(index)
        if account is None:
            account = self._accounts[index] = _Account()
        if account.stale and not key.internal:
            rpm = key.rpm or self._settings.requests_per_minute
            tpm = key.tpm or self._settings.tokens_per_minute
            account.requests = TokenBucket(rpm, self._clock) if rpm else None
            account.tokens = TokenBucket(tpm, self._clock) if tpm else None
            account.streams = key.streams or self._settings.max_streams
            account.stale = False
        return account


def _rate_limited(reason: str, message: str, wait_s: float) -> APIError:
    return APIError(429, "rate_limit_exceeded", message, reason=reason, retry_after_s=wait_s)
