"""Limits of a key over replicas: the arithmetic of leases, and replicas that share a ledger under uneven load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.limits.leases import EXPIRY_S, Accounts, Ask, Grant, KeyAccount, KeyLimits, Lease
from hybridserve.gateway.limits.rate_limit import RequestLimits, Reservation
from hybridserve.settings.access import AccessSection

KEY = Key("user", frozenset({"inference"}))
LIMITS = KeyLimits(60, 6000, 4)


# --- arithmetic


def test_account_refills_settles_and_overdraws() -> None:
    account, limits = KeyAccount(), KeyLimits(requests=60)

    def draw(needed: float, now: float, returned: float = 0.0) -> tuple[float, float]:
        lease = Lease(needed)
        got, wait = account.exchange("a", Ask("k", limits, Lease(), Lease(returned), lease, lease), now)
        return got.requests, wait

    assert draw(60, 0) == (60, 0)
    assert draw(1, 0) == (0, pytest.approx(1.0))
    assert draw(1, 1) == (1, 0)
    assert draw(50, 1, returned=50) == (50, 0)
    assert draw(600, 1) == (0, pytest.approx(60.0)), "more than the limit waits for a full account"
    assert draw(1, 1, returned=-120) == (0, pytest.approx(121.0)), "use beyond what was leased is a debt"


AMOUNT = st.floats(0, 100)
STEP = st.tuples(
    st.sampled_from("abc"), st.floats(0, 5), st.builds(Lease, AMOUNT, AMOUNT, st.integers(0, 5)),
    st.builds(Lease, AMOUNT, AMOUNT, st.integers(0, 5)), st.floats(0, 1),
)  # fmt: skip


@given(st.lists(STEP, max_size=40), st.booleans())
def test_replicas_never_get_more_than_the_limit_and_its_refill(steps: list[tuple], lost: bool) -> None:
    """Each step: a replica spends a share of what it holds, returns the rest or keeps it, and asks for more."""
    limits = KeyLimits(30, 300, 6)
    accounts, now = Accounts(lost=lost), 0.0
    holds = {name: Lease() for name in "abc"}
    spent = [0.0, 0.0]
    for name, pause, needed, extra, share in steps:
        now += pause
        held = holds[name]
        spent[0] += held.requests * share
        spent[1] += held.tokens * share
        left = Lease(held.requests * (1 - share), held.tokens * (1 - share), int(held.streams * (1 - share)))
        keep = Lease(streams=left.streams) if share < 0.5 else left
        returned = Lease(left.requests - keep.requests, left.tokens - keep.tokens)
        wanted = Lease(needed.requests + extra.requests, needed.tokens + extra.tokens, needed.streams + extra.streams)
        for other in holds:  # every replica reports in time
            ask = Ask("k", limits, holds[other])
            if other != name:
                accounts.exchange(other, [ask], now)
        (grant,) = accounts.exchange(name, [Ask("k", limits, keep, returned, needed, wanted)], now)
        lease = grant.lease
        assert min(lease.requests, lease.tokens, lease.streams, grant.wait_s) >= 0
        if grant.wait_s == 0:
            assert lease.streams >= needed.streams
        holds[name] = Lease(keep.requests + lease.requests, keep.tokens + lease.tokens, keep.streams + lease.streams)
        full = 0.0 if lost else 1.0
        for limit, used, kept in (
            (30, spent[0], sum(row.requests for row in holds.values())),
            (300, spent[1], sum(row.tokens for row in holds.values())),
        ):
            assert used + kept <= limit * (full + now / 60) + 1e-6
            assert kept <= limit + 1e-6
        assert sum(row.streams for row in holds.values()) <= 6


def test_streams_of_a_replica_that_is_gone_are_free_again() -> None:
    account, one = KeyAccount(), Lease(streams=4)
    assert account.exchange("a", Ask("k", LIMITS, needed=one, wanted=one), 0)[0].streams == 4
    assert account.exchange("b", Ask("k", LIMITS, needed=one, wanted=one), EXPIRY_S)[1] > 0
    assert account.exchange("b", Ask("k", LIMITS, needed=one, wanted=one), EXPIRY_S + 1)[0].streams == 4


def test_lowered_limit_applies_to_an_account_at_once() -> None:
    account, one = KeyAccount(), Lease(1)
    account.exchange("a", Ask("k", KeyLimits(1000), needed=one, wanted=one), 0)
    grants = [account.exchange("a", Ask("k", KeyLimits(2), needed=one, wanted=one), 0)[1] for _ in range(3)]
    assert grants[:2] == [0, 0]
    assert grants[2] > 0


def test_accounts_that_are_full_again_are_dropped() -> None:
    accounts, one = Accounts(), Lease(1)
    for number in range(100):
        accounts.exchange("a", [Ask(f"k{number}", KeyLimits(60), needed=one, wanted=one)], 0)
    accounts.exchange("a", [Ask("k", KeyLimits(60))], 100)
    assert len(accounts._accounts) == 1


# --- replicas


class SharedAccounts:
    """A ledger in this process; `broken` makes every call fail."""

    def __init__(self, now: list[float]) -> None:
        self.accounts = Accounts()
        self.now = now
        self.broken = False
        self.calls = 0

    async def exchange(self, replica: str, asks: Sequence[Ask]) -> list[Grant]:
        self.calls += 1
        if self.broken:
            raise ConnectionError
        return self.accounts.exchange(replica, asks, self.now[0])

    async def close(self) -> None:
        pass


class Fleet:
    """Replicas with a shared ledger and a clock; a request goes to a replica by `weights`."""

    def __init__(self, weights: Sequence[float], **limits: int) -> None:
        self.now = [0.0]
        self.ledger = SharedAccounts(self.now)
        settings = AccessSection(max_in_flight=None, **limits)
        self.replicas = [
            RequestLimits(settings, lambda: self.now[0], ledger=self.ledger, replicas=len(weights)) for _ in weights
        ]
        self.weights = weights
        self.random = random.Random(7)
        self.reported = -1.0

    async def advance(self, seconds: float) -> RequestLimits:
        """Let time pass, with reports every second; returns the replica of the next request."""
        self.now[0] += seconds
        if self.now[0] - self.reported >= 1:
            self.reported = self.now[0]
            for replica in self.replicas:
                await replica.report()
        return self.random.choices(self.replicas, self.weights)[0]


UNEVEN = [(1, 1), (0.9, 0.1), (1, 0), (1, 1, 1, 1), (0.7, 0.1, 0.1, 0.1), (0.97, 0.01, 0.01, 0.01)]


@pytest.mark.parametrize("weights", UNEVEN)
@pytest.mark.parametrize("limit", [12, 600])
async def test_requests_per_minute_hold_over_replicas(weights: Sequence[float], limit: int) -> None:
    fleet, minutes, passed = Fleet(weights, requests_per_minute=limit), 4, 0
    while fleet.now[0] < minutes * 60:
        replica = await fleet.advance(60 / limit / 4)
        try:
            await replica.count_request(KEY)
            passed += 1
        except APIError:
            continue
    assert passed == pytest.approx(limit * (minutes + 1), rel=0.05), "a full account and its refill"


@pytest.mark.parametrize("weights", UNEVEN)
async def test_tokens_per_minute_hold_over_replicas(weights: Sequence[float]) -> None:
    limit, minutes, used = 6000, 5, 0
    fleet = Fleet(weights, tokens_per_minute=limit)
    running: list[tuple[float, Reservation, int]] = []
    while fleet.now[0] < minutes * 60:
        replica = await fleet.advance(0.25)
        for end, reservation, tokens in [row for row in running if row[0] <= fleet.now[0]]:
            reservation.release(tokens)
            running.remove((end, reservation, tokens))
            used += tokens
        try:
            reservation = await replica.reserve(KEY, 300)
        except APIError:
            continue
        running.append((fleet.now[0] + fleet.random.uniform(0.1, 3), reservation, fleet.random.randint(20, 400)))
    assert used == pytest.approx(limit * (minutes + 1), rel=0.1)


@pytest.mark.parametrize("weights", UNEVEN)
@pytest.mark.parametrize("limit", [3, 40])
async def test_concurrent_streams_hold_over_replicas(weights: Sequence[float], limit: int) -> None:
    fleet = Fleet(weights, max_streams=limit)
    running: list[tuple[float, Reservation]] = []
    levels = []
    while fleet.now[0] < 30:
        replica = await fleet.advance(0.3 / limit)
        ended = [row for row in running if row[0] <= fleet.now[0]]
        for row in ended:
            row[1].release()
            running.remove(row)
        if ended:  # as `run` does, shortly after the end of a stream
            for each in fleet.replicas:
                await each.report()
        with suppress(APIError):
            running.append((fleet.now[0] + fleet.random.uniform(0.2, 2), await replica.reserve(KEY, 1)))
        levels.append(len(running))
    assert max(levels) <= limit
    busy = levels[len(levels) // 4 :]
    assert sum(busy) / len(busy) > 0.9 * limit


async def test_most_requests_wait_for_no_ledger() -> None:
    fleet = Fleet((1, 1), requests_per_minute=60_000, tokens_per_minute=10**8, max_streams=1000)
    for _ in range(2000):
        replica = await fleet.advance(0.01)
        await replica.count_request(KEY)
        (await replica.reserve(KEY, 100)).release(50)
    reports = 2 * 20 + 2
    assert fleet.ledger.calls - reports < 60


async def test_without_the_ledger_each_replica_applies_its_share() -> None:
    fleet = Fleet((1, 1, 1, 1), requests_per_minute=40, max_streams=8)
    fleet.ledger.broken = True
    passed = streams = 0
    for replica in fleet.replicas * 20:
        for attempt in (replica.count_request(KEY), replica.reserve(KEY, 1)):
            try:
                result = await attempt
                passed += result is None
                streams += result is not None
            except APIError:
                continue
    assert (passed, streams) == (40, 8)
    fleet.ledger.broken = False
    await fleet.advance(1)
    with pytest.raises(APIError, match="concurrent"):
        await fleet.replicas[0].reserve(KEY, 1)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 120}, {"tokens_per_minute": 120}], ids=lambda it: min(it))
async def test_a_limit_holds_when_the_ledger_is_reached_late(limits: dict[str, int]) -> None:
    """Each replica has spent its share alone: together with the ledger's allowance that would be twice the limit."""
    accounts, reachable, now = Accounts(), False, [0.0]

    class Late:
        async def exchange(self, replica: str, asks: Sequence[Ask]) -> list[Grant]:
            if not reachable:
                raise OSError
            return accounts.exchange(replica, asks, now[0])

        async def close(self) -> None: ...

    settings, admitted = AccessSection.model_validate(limits), 0
    fleet = [RequestLimits(settings, clock=lambda: now[0], ledger=Late(), replicas=2) for _ in range(2)]
    for step in range(4):
        reachable = step > 1
        for replica in fleet:
            await replica.report()
        for replica in fleet * 100:
            with suppress(APIError):
                await replica.count_request(KEY)
                (await replica.reserve(KEY, 1)).release(1)
                admitted += 1
        now[0] += 0.2
    assert admitted == pytest.approx(120, rel=0.1)


async def test_requests_wait_for_the_first_report() -> None:
    """One replica has spent all that there is; the other, which reaches the ledger later, must not spend a share."""
    accounts, reached = Accounts(), asyncio.Event()

    class Slow:
        async def exchange(self, replica: str, asks: Sequence[Ask]) -> list[Grant]:
            await reached.wait()
            return accounts.exchange(replica, asks, 0.0)

        async def close(self) -> None: ...

    for wanted in (Lease(60.0), Lease()):  # then it reports that nothing of it is left
        accounts.exchange("other", [Ask(KEY.name, KeyLimits(60), wanted=wanted)], 0.0)
    replica = RequestLimits(AccessSection(requests_per_minute=60), ledger=Slow(), replicas=2)
    task, waiting = asyncio.ensure_future(replica.run(always=True)), asyncio.ensure_future(replica.count_request(KEY))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    reached.set()
    with pytest.raises(APIError, match="per minute"):
        await waiting
    task.cancel()


async def test_lowered_limits_of_a_key_apply_without_a_restart() -> None:
    fleet = Fleet((1, 1))
    generous, strict = (Key("al", frozenset(), rpm=rpm, digest=b"d" * 32) for rpm in (1000, 1))
    for replica in fleet.replicas:
        await replica.count_request(generous)
    refused = 0
    for replica in fleet.replicas * 3:
        try:
            await replica.count_request(strict)
        except APIError:
            refused += 1
    assert refused >= 5
