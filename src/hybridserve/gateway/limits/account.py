"""What one process holds of a key's limits: leased credit, debts and running requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.limits.leases import Ask, KeyLimits, Lease

NO_LIMITS = KeyLimits()

Kind = Literal["requests", "tokens", "streams"]


@dataclass(slots=True)
class Account:
    """Credit and running requests of one key in this process.

    Attributes:
        requests, tokens: unspent credit; negative after overdraft.
        free: streams that are leased and do not run.
        local: credit of this process's own accounts since the shared ledger was last reached.
        waiting: requests that wait for `call`, the exchange with the shared ledger that is under way.
        refused: by kind, the smallest need that was refused, until when it is refused without asking again, and when
            there may be credit for it.
    """

    index: str
    key: Key
    version: int = -1
    limits: KeyLimits = NO_LIMITS
    requests: float = 0.0
    tokens: float = 0.0
    free: int = 0
    local: Lease = field(default_factory=Lease)
    running: int = 0
    used: bool = False
    waiting: int = 0
    call: asyncio.Future[float] | None = None
    refused: dict[Kind, tuple[float, float, float]] = field(default_factory=dict)

    def has(self, kind: Kind, needed: float) -> bool:
        """Whether there is credit of this kind."""
        have: dict[Kind, float] = {"requests": self.requests, "tokens": self.tokens, "streams": self.free}
        return have[kind] >= needed

    def ask(self, limits: KeyLimits, spare: Lease, kind: Kind | None = None, needed: float = 0.0) -> Ask:
        """Move credit beyond `spare`, and every debt, from the account into a question for what is needed."""
        need = Lease(needed if kind == "requests" else 0.0, needed if kind == "tokens" else 0.0, int(kind == "streams"))
        kept = Lease(
            max(0.0, min(self.requests, max(spare.requests, need.requests))),
            max(0.0, min(self.tokens, max(spare.tokens, need.tokens))),
            self.running + min(self.free, spare.streams),
        )
        returned = Lease(self.requests - kept.requests, self.tokens - kept.tokens)
        self.requests, self.tokens, self.free = kept.requests, kept.tokens, kept.streams - self.running
        short = Lease(max(0.0, need.requests - kept.requests), max(0.0, need.tokens - kept.tokens), need.streams)
        crowd = max(1, self.waiting)
        wanted = Lease() if kind is None else Lease(
            spare.requests + crowd * need.requests,
            spare.tokens + crowd * need.tokens,
            spare.streams + crowd * need.streams,
        )  # fmt: skip
        return Ask(self.index, limits, kept, returned, short, wanted)

    def owe_local(self, most: KeyLimits) -> None:
        """Turn what was spent without the shared ledger into a debt of at most `most`, and drop the rest of it."""
        spent_requests = self.local.requests - max(0.0, self.requests)
        spent_tokens = self.local.tokens - max(0.0, self.tokens)
        self.requests = min(0.0, self.requests) - min(max(0.0, spent_requests), most.requests or 0)
        self.tokens = min(0.0, self.tokens) - min(max(0.0, spent_tokens), most.tokens or 0)

    def book(self, lease: Lease) -> None:
        """Add credit."""
        self.requests += lease.requests
        self.tokens += lease.tokens
        self.free += lease.streams
