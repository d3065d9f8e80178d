"""Prefix reuse on a hybrid: what an ideal cache would reuse, what the engine reuses, and why the rest is lost.

A prompt is represented by its chain: one hash for every `STEP` tokens, each over all tokens before it. Chains are
compared instead of tokens, so no prompt is kept. Reuse is counted in whole steps, except for hits, which are the
engine's numbers.

Source of the arithmetic: vLLM v1/core/sched/scheduler.py `_mamba_block_aligned_split` (where prefill chunks end) and
v1/core/single_type_kv_cache_manager.py `MambaManager.reachable_block_mask`, `_cache_partial_tail_block` (which states
are kept): the state at the last block of the prompt, at its last unit, and where an earlier prompt was left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from math import gcd
from typing import Literal, get_args
from zlib import crc32

from hybridserve.fast_dataclass import dataclass

STEP = 16
MAX_ENTRIES = 1 << 17
"""Hashes that are remembered at most, 2 million tokens of different prompts, and states: 44 MiB in all."""

Cause = Literal["below_minimum", "off_grid", "first_junction", "evicted", "state_missing", "other_replica"]
CAUSES: tuple[Cause, ...] = get_args(Cause)

Chain = Sequence[int]


@dataclass(frozen=True, slots=True)
class CacheGrid:
    """Where states can be cached.

    Attributes:
        block: tokens of one block.
        unit: tokens of the smallest prefix that can hit: `prefix_match_unit`, or the block.
        split: tokens at whose multiples prefill chunks end. The block, except on CPU with an unset block size.
        budget: tokens of one engine step (`max_num_batched_tokens`).
        attention_groups: cache groups with one block for every block of tokens.
        state_groups: cache groups with one block for each kept state.
        blocks: blocks of the pool, without the null block.
    """

    block: int
    unit: int
    split: int
    budget: int
    attention_groups: int
    state_groups: int
    blocks: int

    @property
    def step(self) -> int:
        """Tokens of one hash of a chain."""
        return gcd(STEP, self.unit)

    @property
    def tokens(self) -> int:
        """Tokens that the pool holds when it holds nothing but attention blocks: the size of an ideal cache."""
        return self.blocks // max(1, self.attention_groups) * self.block


@dataclass(frozen=True, slots=True)
class Reuse:
    """One request: reusable tokens are the hit tokens and the lost tokens of all causes."""

    prompt: int
    hit: int
    lost: tuple[tuple[Cause, int], ...]

    @property
    def reusable(self) -> int:
        return self.hit + sum(tokens for _, tokens in self.lost)


def chain(tokens: Sequence[int], step: int = STEP, scope: str = "") -> list[int]:
    """One hash for every `step` tokens, over all tokens up to there. The same in every process: tokens are integers.

    Args:
        scope: requests of different scopes share no prefix.
    """
    value, hashes = crc32(scope.encode()), []
    for end in range(step, len(tokens) + 1, step):
        value = hash((value, *tokens[end - step : end]))
        hashes.append(value)
    return hashes


class SeenPrefixes:
    """An ideal cache: the most recent prefixes, up to a number of tokens."""

    def __init__(self, tokens: int, step: int) -> None:
        self._entries = max(1, min(MAX_ENTRIES, tokens // step))
        self._step = step
        self._seen: OrderedDict[int, None] = OrderedDict()

    def longest(self, hashes: Iterable[int]) -> int:
        """Tokens of the longest prefix of a chain that was seen before."""
        count = 0
        for value in hashes:
            if value not in self._seen:
                break
            count += 1
        return count * self._step

    def add(self, hashes: Chain) -> None:
        """Remember a chain. Its beginning is the last part to be forgotten."""
        for value in reversed(hashes):
            self._seen[value] = None
            self._seen.move_to_end(value)
        while len(self._seen) > self._entries:
            self._seen.popitem(last=False)


def kept_states(grid: CacheGrid, prompt: int, hit: int, shared: int) -> set[int]:
    """Positions, in tokens from the start of the prompt, at which a prefill leaves a state that later prompts can hit.

    Args:
        hit: tokens that came from the cache, where the prefill starts.
        shared: tokens of the prompt that attention blocks hold already; beyond the hit they have no state.
    """
    wanted = {(prompt - 1) // grid.unit * grid.unit // grid.block * grid.block}
    if shared > hit:
        wanted.add(shared // grid.block * grid.block)
    ends, tail = chunk_ends(grid, prompt, hit, shared)
    kept = {position for position in wanted if position > hit and position in ends}
    if tail % grid.block and tail in ends and tail > hit:
        kept.add(tail)
    return kept


def chunk_ends(grid: CacheGrid, prompt: int, start: int, shared: int) -> tuple[set[int], int]:
    """Where the chunks of a prefill end, and the last unit of the prompt; arguments as in `kept_states`."""
    split, last = grid.split, prompt - prompt % grid.split
    tail = prompt // grid.unit * grid.unit if grid.unit < grid.block else 0
    ends: set[int] = set()
    while start < prompt:
        end = min(prompt, start + grid.budget)
        if end < prompt and (end // split * split > start or split <= grid.budget):
            end = end // split * split
        stops = [last, (start // split + 1) * split if start % split else 0, tail if last < tail < prompt else 0]
        if start < shared < end:
            stops.append(start + (shared - start) // split * split)
        end = min((stop for stop in stops if start < stop < end), default=end)
        if end <= start:
            break  # no chunk fits: the budget is smaller than what is left of a block
        ends.add(end)
        start = end
    return ends, tail


class ReuseAccount:
    """Attributes every reusable prompt token of one engine: hit, or lost by a cause.

    Memory is bounded by `MAX_ENTRIES` hashes and as many states.
    """

    def __init__(self, grid: CacheGrid) -> None:
        self.grid = grid
        self._seen = SeenPrefixes(grid.tokens, grid.step)
        # Hash of a prefix whose state should be cached, and the number of allocated blocks when it was last used.
        self._states: OrderedDict[int, int] = OrderedDict()
        self._allocated = 0

    def record(
        self,
        prompt: Chain,
        sequence: Chain,
        tokens: int,
        total: int,
        hit: int,
        free_blocks: int | None = None,
        elsewhere: int = 0,
    ) -> Reuse:
        """Account for one finished request.

        Args:
            prompt: chain of the prompt.
            sequence: chain of the prompt and the output.
            tokens: prompt tokens.
            total: tokens of the prompt and the output.
            hit: prompt tokens that the engine took from its cache.
            free_blocks: blocks that no sequence uses; by default the whole pool.
            elsewhere: tokens of the prompt that any replica has seen.
        """
        grid, step = self.grid, self.grid.step
        # The last prompt token is always computed, for its logits.
        usable = prompt[: (tokens - 1) // step]
        seen = max(hit, self._seen.longest(usable))
        on_grid = max(hit, seen // grid.unit * grid.unit)
        expected = self._longest_state(usable, on_grid // step, hit)
        lost: dict[Cause, int] = {
            "off_grid" if on_grid else "below_minimum": seen - on_grid,
            "first_junction": on_grid - max(expected, hit),
            "other_replica": max(0, min(elsewhere, len(usable) * step) - seen),
        }
        if expected > hit:
            since = self._allocated - self._states[usable[expected // step - 1]]
            full = since >= (grid.blocks if free_blocks is None else free_blocks)
            lost["evicted" if full else "state_missing"] = expected - hit
        self._keep(usable, prompt, sequence, tokens, total, hit, seen)
        return Reuse(tokens, hit, tuple((cause, count) for cause, count in lost.items() if count))

    def _longest_state(self, hashes: Chain, count: int, hit: int) -> int:
        step = self.grid.step
        for index in range(count, hit // step, -1):
            if hashes[index - 1] in self._states:
                return index * step
        return 0

    def _keep(
        self, usable: Chain, prompt: Chain, sequence: Chain, tokens: int, total: int, hit: int, seen: int
    ) -> None:
        grid, step = self.grid, self.grid.step
        # States are expected on the grid that the settings promise, not where a faulty engine puts them.
        promised = CacheGrid(
            grid.block, grid.unit, grid.block, grid.budget, grid.attention_groups, grid.state_groups, grid.blocks
        )
        states = kept_states(promised, tokens, hit, attention_prefix(grid, seen))
        new_blocks = -(-total // grid.block) - hit // grid.block
        self._allocated += grid.attention_groups * new_blocks + grid.state_groups * (len(states) + 1)
        for position in (*sorted(states), hit):
            index = position // step
            if 0 < index <= len(prompt):
                self._states[prompt[index - 1]] = self._allocated
                self._states.move_to_end(prompt[index - 1])
        while len(self._states) > MAX_ENTRIES:
            self._states.popitem(last=False)
        self._seen.add(sequence)


def attention_prefix(grid: CacheGrid, seen: int) -> int:
    """Tokens of a prefix, seen before, that whole attention blocks hold."""
    return seen // grid.block * grid.block
