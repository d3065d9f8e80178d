"""Limits of a key over all replicas: one account for each key, from which replicas lease credit.

A replica draws requests, tokens and streams in advance and spends them without asking. What it holds and does not spend
it returns, so the sum over all replicas is never more than the limit. Pure: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# A replica that has not reported for this long is gone, and what it held is free. Replicas report every second.
EXPIRY_S = 10.0
# Share of a limit that all replicas together may hold without need.
SPARE_SHARE = 0.05
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one key: per minute, per minute, and at the same time. None is no limit."""

    requests: int | None = None
    tokens: int | None = None
    streams: int | None = None

    def share(self, replicas: int) -> KeyLimits:
        """The limits of one replica, if each gets the same; at least 1."""

        def part(limit: int | None) -> int | None:
            return None if limit is None else max(1, limit // replicas)

        return KeyLimits(part(self.requests), part(self.tokens), part(self.streams))


@dataclass(frozen=True, slots=True)
class Lease:
    """Credit: requests, tokens, and concurrent streams."""

    requests: float = 0.0
    tokens: float = 0.0
    streams: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a replica tells the account of a key, and what it asks for.

    Attributes:
        kept: unspent credit that stays at the replica; its streams are those that run or are kept free.
        returned: credit that the replica gives back; negative where it has spent more than it had.
        needed: without this there is nothing; `wanted` is what the replica takes if it is there, at least `needed`.
    """

    key: str
    limits: KeyLimits
    kept: Lease = Lease()
    returned: Lease = Lease()
    needed: Lease = Lease()
    wanted: Lease = Lease()


@dataclass(frozen=True, slots=True)
class Grant:
    """The reply to an `Ask`.

    Attributes:
        lease: what the replica may spend in addition to what it kept.
        wait_s: seconds until what was needed may be there; 0 if it was granted.
        replicas: replicas that report now.
    """

    lease: Lease
    wait_s: float = 0.0
    replicas: int = 1


@dataclass(slots=True)
class KeyAccount:
    """The account of one key: credit that nobody holds, and what each replica holds.

    Attributes:
        requests, tokens: credit; None before the first use, when it is full. Negative after overdraft.
        held: by replica, what it held at its last report, and the time of that report.
    """

    requests: float | None = None
    tokens: float | None = None
    updated: float = 0.0
    held: dict[str, tuple[Lease, float]] = field(default_factory=dict)

    def exchange(self, replica: str, ask: Ask, now: float) -> tuple[Lease, float]:
        """Book what a replica reports, and give it what it asks for; returns the lease and the seconds to wait."""
        self.held = {name: row for name, row in self.held.items() if name != replica and now - row[1] <= EXPIRY_S}
        others = [lease for lease, _ in self.held.values()]
        elapsed, self.updated = max(0.0, now - self.updated), max(now, self.updated)
        limits, kept, back, needed, wanted = ask.limits, ask.kept, ask.returned, ask.needed, ask.wanted
        self.requests, requests, wait = _draw(
            self.requests, limits.requests, elapsed, back.requests,
            kept.requests + sum(lease.requests for lease in others), needed.requests, wanted.requests,
        )  # fmt: skip
        self.tokens, tokens, wait_tokens = _draw(
            self.tokens, limits.tokens, elapsed, back.tokens,
            kept.tokens + sum(lease.tokens for lease in others), needed.tokens, wanted.tokens,
        )  # fmt: skip
        wait = max(wait, wait_tokens)
        streams = wanted.streams
        if limits.streams is not None:
            free = limits.streams - kept.streams - sum(lease.streams for lease in others)
            streams = max(0, min(streams, free))
            if streams < needed.streams:
                streams, wait = 0, max(wait, 1.0)
        granted = Lease(requests, tokens, streams)
        holds = Lease(kept.requests + requests, kept.tokens + tokens, kept.streams + streams)
        if holds != Lease():
            self.held[replica] = (holds, now)
        return granted, wait

    def idle(self, limits: KeyLimits, now: float) -> bool:
        """Whether the account is as good as a new one."""
        if any(now - seen <= EXPIRY_S for _, seen in self.held.values()):
            return False
        elapsed = now - self.updated
        return _full(self.requests, limits.requests, elapsed) and _full(self.tokens, limits.tokens, elapsed)


def _draw(
    level: float | None, limit: int | None, elapsed: float, returned: float, held: float, needed: float, wanted: float
) -> tuple[float | None, float, float]:
    """Refill a level and take from it: the new level, what is granted, and seconds to wait.

    Credit that is held has not been spent, so that level and credit together stay within the limit. An amount above the
    limit counts as the limit, so that it is possible at all.
    """
    if limit is None:
        return None, wanted, 0.0
    most = max(0.0, limit - held)
    level = min((limit if level is None else level + elapsed * limit / 60) + returned, most)
    needed = min(needed, most)
    if needed > level + _EPSILON:
        return level, 0.0, (needed - level) * 60 / limit
    granted = max(needed, min(wanted, level), 0.0)
    return level - granted, granted, 0.0


def _full(level: float | None, limit: int | None, elapsed: float) -> bool:
    return level is None or limit is None or level + elapsed * limit / 60 >= limit


def spare(limits: KeyLimits, replicas: int) -> Lease:
    """What one replica may hold without need."""
    share = SPARE_SHARE / replicas
    return Lease((limits.requests or 0) * share, (limits.tokens or 0) * share, int((limits.streams or 0) * share))


class Accounts:
    """The accounts of all keys, and the replicas that report.

    Args:
        lost: an earlier instance was lost, and with it what was spent. Accounts then begin empty, so that nobody gets a
            second allowance; streams are known again when each replica has reported.
        began: the time at which this one begins.
    """

    def __init__(self, *, lost: bool = False, began: float = 0.0) -> None:
        self._lost = lost
        self._began = began
        self._accounts: dict[str, tuple[KeyAccount, KeyLimits]] = {}
        self._seen: dict[str, float] = {}
        self._pruned = began

    def exchange(self, replica: str, asks: Iterable[Ask], now: float) -> list[Grant]:
        """Exchange for each of `asks`; without one, a report that the replica is there."""
        self._seen[replica] = now
        if now - self._pruned > EXPIRY_S:
            self._prune(now)
        grants = []
        for ask in asks:
            account, _ = self._accounts.get(ask.key) or (self._new(now), None)
            lease, wait = account.exchange(replica, ask, now)
            self._accounts[ask.key] = account, ask.limits
            grants.append(Grant(lease, wait, len(self._seen)))
        return grants

    def _new(self, now: float) -> KeyAccount:
        if not self._lost:
            return KeyAccount(updated=now)
        return KeyAccount(requests=0.0, tokens=0.0, updated=self._began)

    def _prune(self, now: float) -> None:
        self._pruned = now
        self._seen = {name: at for name, at in self._seen.items() if now - at <= EXPIRY_S}
        for key, (account, limits) in list(self._accounts.items()):
            if account.idle(limits, now):
                del self._accounts[key]
