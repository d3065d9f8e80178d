"""Compare a measured operating curve with the plan: sequences that run at once, and share of the roofline bound.

`hybridserve loadtest --sweep concurrency` writes the file. If the concurrency of a point is more than the planned cache
fits, requests waited, and the throughput is that of the sequences that fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.types import CachePlan
from hybridserve.planning.roofline import DevicePeaks, ServedModel, bound


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """One kind of request at one concurrency. Seconds, tokens/s."""

    prompt: int
    output: int
    concurrency: int
    tokens_per_s: float
    ttft_s: float | None
    tpot_s: float | None
    void: bool
    """The client was the bottleneck, so the point does not measure the server."""


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """A measured point with the planned values."""

    point: MeasuredPoint
    running: int
    """Planned number of sequences that run at once."""
    bound_tokens_per_s: float | None
    """The roofline bound at that number; None if the catalog has no peaks of the device."""

    @property
    def waits(self) -> bool:
        """Whether the cache or max_num_seqs is full, so that requests wait."""
        return self.running < self.point.concurrency

    @property
    def share(self) -> float | None:
        """Measured share of the bound."""
        return self.point.tokens_per_s / self.bound_tokens_per_s if self.bound_tokens_per_s else None

    def as_dict(self) -> dict[str, Any]:
        """The comparison for ``--json``."""
        return {**asdict(self), "waits": self.waits, "share": self.share}


def read_curve(text: str, where: str) -> tuple[str, tuple[MeasuredPoint, ...]]:
    """Parse an operating curve: the served model's name and the points.

    Raises:
        ConfigError: not an operating curve, or without points.
    """
    try:
        tree = json.loads(text)
        points = tuple(_point(row) for row in tree["points"])
        model = str(tree["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            where,
            f"is not an operating curve ({type(error).__name__}: {error})",
            "hybridserve loadtest --sweep writes one",
        ) from None
    if not points:
        raise ConfigError(where, "has no points", "run the sweep again")
    return model, points


def compare_with_plan(
    points: Sequence[MeasuredPoint], cache: CachePlan, max_num_seqs: int, served: ServedModel, peaks: DevicePeaks | None
) -> tuple[BenchmarkComparison, ...]:
    """Compare every point with the plan."""
    found = []
    for point in points:
        running = min(point.concurrency, max_num_seqs, cache.n_steady(point.prompt + point.output))
        limit = None
        if peaks is not None and running:
            limit = bound(served, peaks, running, point.prompt, point.output).output_tokens_per_s
        found.append(BenchmarkComparison(point, running, limit))
    return tuple(found)


def _point(row: dict[str, Any]) -> MeasuredPoint:
    summary = row["summary"]

    def median(name: str) -> float | None:
        return None if summary[name] is None else float(summary[name]["p50"])

    return MeasuredPoint(
        prompt=int(row["prompt_tokens"]),
        output=int(row["output_tokens"]),
        concurrency=int(row["concurrency"]),
        tokens_per_s=float(summary["output_throughput"]),
        ttft_s=median("ttft"),
        tpot_s=median("tpot"),
        void=bool(row["void"]),
    )
