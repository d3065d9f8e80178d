"""An operating curve beside the plan: what of each measured point the cache explains, and how far from the roofline.

The file is what `hybridserve loadtest --sweep concurrency` writes. A point at a concurrency that the plan's cache does
not hold was measured with requests waiting: its throughput is that of the sequences that fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.planning.cache.types import CachePlan
from hybridserve.planning.roofline import DevicePeaks, ServedModel, bound
from hybridserve.records import dataclass


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
    """The client was the bottleneck: says nothing about the server."""


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """A point and what the plan says of it."""

    point: MeasuredPoint
    running: int
    """Sequences that run at once, planned."""
    bound_tokens_per_s: float | None
    """The roofline at that many; None where the catalogue has no peaks."""

    @property
    def waits(self) -> bool:
        """The cache, or the limit of sequences, is full."""
        return self.running < self.point.concurrency

    @property
    def share(self) -> float | None:
        """Of the bound."""
        return self.point.tokens_per_s / self.bound_tokens_per_s if self.bound_tokens_per_s else None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "waits": self.waits, "share": self.share}


def read_curve(text: str, where: str) -> tuple[str, tuple[MeasuredPoint, ...]]:
    """The served model's name, and the points.

    Raises:
        ConfigError: not such a file, or without points.
    """
    try:
        tree = json.loads(text)
        points = tuple(_point(row) for row in tree["points"])
        model = str(tree["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            where, f"is no operating curve ({type(error).__name__}: {error})", "hybridserve loadtest --sweep writes one"
        ) from None
    if not points:
        raise ConfigError(where, "has no points", "run the sweep again")
    return model, points


def judge(
    points: Sequence[MeasuredPoint], cache: CachePlan, max_num_seqs: int, served: ServedModel, peaks: DevicePeaks | None
) -> tuple[BenchmarkComparison, ...]:
    """Every point beside the plan: sequences that run, and the bound at that many."""
    found = []
    for one in points:
        running = min(one.concurrency, max_num_seqs, cache.n_steady(one.prompt + one.output))
        limit = None
        if peaks is not None and running:
            limit = bound(served, peaks, running, one.prompt, one.output).output_tokens_per_s
        found.append(BenchmarkComparison(one, running, limit))
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
