"""The highest rate that keeps the SLO: doubling until one is missed, then halving the gap. A probe does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hybridserve.loadtest.slo import SLOStatus

Answer = SLOStatus | Literal["interrupted", "gone"]
"""What one rate came to. `gone`: the server no longer answers."""
Probe = Callable[[float], Answer]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found. `best` is None when no rate was seen to keep the SLO."""

    best: float | None
    tried: tuple[tuple[float, Answer], ...]
    ended: Literal["found", "open", "void", "interrupted", "gone"] = "found"
    """`open`: nothing was missed up to the highest rate that was allowed. The last three: before it was found.

    A client that cannot keep up ends the search, since what lies above cannot be judged.
    """


def find_max(probe: Probe, first: float, highest: float, precision: float = 0.1, lowest: float = 0.01) -> Found:
    """Search between `lowest` and `highest` (requests/s), beginning at `first`.

    The goodput of a queue falls with its rate, so kept and missed rates are separated by one border. It is found to
    `precision`: the lowest missed rate is at most that share above the highest kept one.
    """
    tried: list[tuple[float, Answer]] = []
    kept: float | None = None
    missed: float | None = None
    rate = min(first, highest)
    while True:
        answer = probe(rate)
        tried.append((rate, answer))
        if answer == "kept":
            kept = rate
            if missed is None and rate >= highest:
                return Found(kept, tuple(tried), "open")
        elif answer == "missed":
            missed = rate
            if kept is None and rate <= lowest:
                return Found(None, tuple(tried))
        else:
            return Found(kept, tuple(tried), answer)
        if kept is not None and missed is not None:
            if missed <= kept * (1 + precision):
                return Found(kept, tuple(tried))
            # The middle of the ratio: rates differ by factors.
            rate = (kept * missed) ** 0.5
        elif missed is None:
            rate = min(rate * 2, highest)
        else:
            rate = max(rate / 2, lowest)
