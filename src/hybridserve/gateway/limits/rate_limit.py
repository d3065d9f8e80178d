"""How much and how often: buckets that refill, and places that are taken and given back.

State is this process's own. With several replicas each has its own buckets: a key's total is the limit times the
replicas that serve it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.settings.access import AccessSection


class TokenBucket:
    """A token bucket: `per_minute` flow in evenly, and as many fit in."""

    __slots__ = ("_at", "_capacity", "_clock", "_level", "_rate")

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._capacity = float(per_minute)
        self._rate = per_minute / 60.0
        self._clock = clock
        self._level = self._capacity
        self._at = clock()

    def take(self, amount: float) -> float:
        """Take `amount` and return 0, or take nothing and return the seconds until it would fit.

        An amount above the capacity is taken as the capacity: it must be possible once in a while.
        """
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        amount = min(amount, self._capacity)
        if amount > self._level:
            return (amount - self._level) / self._rate
        self._level -= amount
        return 0.0

    def settle(self, reserved: float, used: float) -> None:
        """Put back what was reserved and not used; what was used beyond becomes a debt."""
        self._level = min(self._capacity, self._level + min(reserved, self._capacity) - used)


@dataclass(slots=True)
class _Account:
    requests: TokenBucket | None
    tokens: TokenBucket | None
    streams: int | None
    running: int = 0
    stale: bool = False


class Reservation:
    """A place among the running requests. Close it once, with the tokens that were used."""

    __slots__ = ("_account", "_limits", "_open", "_places", "reserved")

    def __init__(self, limits: RequestLimits, account: _Account, reserved: float, places: int = 1) -> None:
        self._limits = limits
        self._account = account
        self._places = places
        self.reserved = reserved
        self._open = True

    def close(self, used: float | None = None) -> bool:
        """Give the place back, once; False the next time. `used` None means unknown: the reservation stands."""
        if not self._open:
            return False
        self._open = False
        self._account.running -= 1
        self._limits.running -= self._places
        if self._account.tokens is not None and used is not None:
            self._account.tokens.settle(self.reserved, used)
        return True


class RequestLimits:
    """All keys' accounts."""

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
        return not key.insider and (key.tpm or self._settings.tokens_per_minute) is not None

    def request(self, key: Key) -> None:
        """Count one request of this key.

        Raises:
            APIError: 429, too many requests in this minute.
        """
        if key.insider:
            return
        account = self._account(key)
        if account.requests is not None and (wait := account.requests.take(1)):
            raise _too_many("requests_per_minute", "Too many requests in a minute for this key.", wait)

    def open(self, key: Key, tokens: float) -> Reservation:
        """A place for one generation that may use up to `tokens`.

        Raises:
            APIError: 429, too many at once or too many tokens in this minute.
        """
        account = self._account(key)
        total = self._settings.max_in_flight
        if total is not None and self.running >= total and not key.insider:
            raise _too_many("max_in_flight", "The server runs as many requests as it may.", 1.0)
        if account.streams is not None and account.running >= account.streams:
            raise _too_many("max_streams", "This key runs as many requests at once as it may.", 1.0)
        if account.tokens is not None and (wait := account.tokens.take(tokens)):
            raise _too_many("tokens_per_minute", "Too many tokens in a minute for this key.", wait)
        # The service's own canaries take no client's place: with max_in_flight 1 each would turn one away.
        places = 0 if key.insider else 1
        account.running += 1
        self.running += places
        return Reservation(self, account, tokens, places)

    def _account(self, key: Key) -> _Account:
        # A key that was changed in the file gets a new account; it costs one full bucket, and needs no bookkeeping.
        index = (key.name, key.digest)
        account = self._accounts.get(index)
        if account is None:
            account = self._accounts[index] = _Account(None, None, None, stale=True)
        if account.stale and not key.insider:
            rpm = key.rpm or self._settings.requests_per_minute
            tpm = key.tpm or self._settings.tokens_per_minute
            account.requests = TokenBucket(rpm, self._clock) if rpm else None
            account.tokens = TokenBucket(tpm, self._clock) if tpm else None
            account.streams = key.streams or self._settings.max_streams
            account.stale = False
        return account


def _too_many(reason: str, message: str, wait_s: float) -> APIError:
    return APIError(429, "rate_limit_exceeded", message, reason=reason, retry_after_s=wait_s)
