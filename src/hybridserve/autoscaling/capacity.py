"""Capacity of one replica: the resources that run out on a hybrid model, taken from the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from hybridserve.errors import ConfigError

# Prefill rate, in tokens a second, of a replica whose rate is not known: never the limit.
UNLIMITED_PREFILL = 1e12


@dataclass(frozen=True, slots=True)
class ReplicaCapacity:
    """Capacity of one replica.

    A sequence of L tokens takes ``state_blocks + growing_groups * ceil(L / block_size)`` blocks of the shared cache.

    Attributes:
        max_num_seqs: sequences the scheduler runs at once.
        usable_blocks: blocks of the cache without the null block.
        block_size: tokens of one block.
        state_blocks: blocks for the recurrent state of one running sequence; 0 for a pure transformer.
        growing_groups: cache groups that take one more block every `block_size` tokens.
        prefill_tokens_per_s: prompt tokens that a replica computes per second while it also decodes.
    """

    max_num_seqs: int
    usable_blocks: int
    block_size: int
    state_blocks: int
    growing_groups: int
    prefill_tokens_per_s: float

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "usable_blocks", "block_size", "prefill_tokens_per_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"capacity.{name}", f"{getattr(self, name)} is not positive", "take it from the plan")
        if self.state_blocks < 0 or self.growing_groups < 0 or not self.state_blocks + self.growing_groups:
            raise ConfigError("capacity", "state_blocks and growing_groups are both 0", "take both from the plan")
        if self.usable_blocks < self.state_blocks + self.growing_groups:
            raise ConfigError(
                "capacity.usable_blocks",
                f"{self.usable_blocks} blocks are too few for one sequence ({self.state_blocks + self.growing_groups})",
                "give the engine more cache memory",
            )

    @property
    def state_slots(self) -> int:
        """Sequences whose state fits with one block of each growing group, at most what the scheduler runs."""
        return min(self.max_num_seqs, self.usable_blocks // (self.state_blocks + self.growing_groups))

    def blocks(self, length: float) -> int:
        """Blocks of a running sequence of `length` tokens."""
        return self.state_blocks + self.growing_groups * max(1, -(-int(length) // self.block_size))

    @classmethod
    def from_blocks(
        cls, num_blocks: int, block_size: int, running_blocks: Callable[[int], int], max_num_seqs: int, prefill: float
    ) -> Self:
        """The capacity of a replica with a planned cache.

        Args:
            num_blocks: of the cache, with the null block.
            running_blocks: blocks of a decoding sequence of some length. Two lengths separate what grows by one block
                of tokens from what does not grow.
            prefill: prompt tokens per second.
        """
        one, two = running_blocks(block_size), running_blocks(2 * block_size)
        return cls(max_num_seqs, num_blocks - 1, block_size, one - (two - one), two - one, prefill)
