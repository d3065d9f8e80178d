"""Quantiles of sorted values: by nearest rank, and interpolated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


def nearest_rank(ordered: Sequence[_Number], fraction: float) -> _Number:
    """The smallest value that at least `fraction` of the values do not exceed (`fraction` from 0 to 1).

    It is always one of the values, so it works with infinities.

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def interpolated(ordered: Sequence[float], fraction: float) -> float:
    """Linear interpolation between the closest ranks (numpy's default), `fraction` from 0 to 1.

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no values")
    position = (len(ordered) - 1) * fraction
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
