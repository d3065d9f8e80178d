"""What the engine's prefix cache hits for recorded requests, under other settings.

Exact for requests that run one after another in a pool that holds what they leave; `tests/stack/test_prefix_cache.py`
compares it with the engine's counters. Under pressure the order of eviction is that of last use, which is an estimate:
vLLM frees the end of a sequence before its beginning.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.reuse import CacheGrid, Cause, Chain, ReuseAccount, kept_states
from hybridserve.planning.cache.reuse_trace import TracedRequest

Entry = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Replay:
    """A trace under one grid. Sizes in tokens and blocks.

    Attributes:
        hits: hit tokens of each request.
        cached_blocks: most blocks that held cached prefixes, and `state_blocks` those of them that held states.
    """

    prompt: int
    hits: tuple[int, ...]
    lost: dict[Cause, int]
    cached_blocks: int
    state_blocks: int

    @property
    def hit(self) -> int:
        return sum(self.hits)

    @property
    def reusable(self) -> int:
        return self.hit + sum(self.lost.values())

    @property
    def share(self) -> float:
        """Hit tokens of reusable tokens; 1 where nothing could be reused."""
        return self.hit / self.reusable if self.reusable else 1.0


class PrefixCache:
    """The cached blocks of one engine: attention blocks, the last part of a prompt, and states, by their hash."""

    def __init__(self, grid: CacheGrid) -> None:
        self._grid = grid
        self._entries: OrderedDict[Entry, int] = OrderedDict()
        self.blocks = 0
        self.state_blocks = 0

    def lookup(self, hashes: Chain, prompt: int) -> tuple[int, int]:
        """Tokens that hit, and tokens that attention blocks hold, which may be more."""
        grid, usable = self._grid, prompt - 1
        attention = 0
        while attention + grid.block <= usable and self._has("attention", hashes, attention + grid.block):
            attention += grid.block
        if grid.unit < grid.block:
            last = min(usable // grid.unit * grid.unit, attention + grid.block - grid.unit)
            inside = range(last, attention, -grid.unit)
            attention = next((end for end in inside if self._has("attention", hashes, end)), attention)
        states = range(attention // grid.unit * grid.unit, 0, -grid.unit)
        return next((end for end in states if self._has("state", hashes, end)), 0), attention

    def add(self, hashes: Chain, prompt: int, total: int, hit: int, attention: int) -> None:
        """What one finished request leaves in the cache."""
        grid = self._grid
        # The last output token was never an input of the model.
        ends = {*range(grid.block, total, grid.block), prompt // grid.unit * grid.unit} - {0}
        states = kept_states(grid, prompt, hit, attention)
        self._evict(grid.attention_groups * -(-total // grid.block) + grid.state_groups * (len(states) + 1))
        for end in sorted(states | ({hit} if hit else set()), reverse=True):
            self._put("state", hashes, end, grid.state_groups)
        for end in sorted(ends, reverse=True):
            # A partial block is the block that the sequence fills later.
            self._put("attention", hashes, end, grid.attention_groups if end % grid.block == 0 else 0)

    def _key(self, kind: str, hashes: Chain, end: int) -> Entry:
        return kind, hashes[end // self._grid.step - 1]

    def _has(self, kind: str, hashes: Chain, end: int) -> bool:
        return self._key(kind, hashes, end) in self._entries

    def _put(self, kind: str, hashes: Chain, end: int, blocks: int) -> None:
        key = self._key(kind, hashes, end)
        if key not in self._entries:
            self._entries[key] = blocks
            self.blocks += blocks
            self.state_blocks += blocks if kind == "state" else 0
        self._entries.move_to_end(key)

    def _evict(self, needed: int) -> None:
        while self._entries and self.blocks + needed > self._grid.blocks:
            (kind, _), blocks = self._entries.popitem(last=False)
            self.blocks -= blocks
            self.state_blocks -= blocks if kind == "state" else 0


def replay(trace: Sequence[TracedRequest], grid: CacheGrid, caching: bool = True) -> Replay:
    """Run a trace through the cache of one engine, request after request."""
    cache, account = PrefixCache(grid), ReuseAccount(grid)
    hits, lost = [], Counter[Cause]()
    most = most_states = 0
    for request in trace:
        hit, attention = cache.lookup(request.chain, request.prompt) if caching else (0, 0)
        if caching:
            cache.add(request.chain, request.prompt, request.total, hit, attention)
        prompt = request.chain[: request.prompt // grid.step]
        reuse = account.record(prompt, request.chain, request.prompt, request.total, hit)
        hits.append(hit)
        lost.update(dict(reuse.lost))
        most, most_states = max(most, cache.blocks), max(most_states, cache.state_blocks)
    return Replay(sum(request.prompt for request in trace), tuple(hits), dict(lost), most, most_states)
