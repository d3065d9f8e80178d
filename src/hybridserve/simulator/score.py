"""What a run was worth: service goals met, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hybridserve.quantiles import nearest_rank
from hybridserve.settings.slo import LatencySLO
from hybridserve.simulator.fleet import Run
from hybridserve.simulator.replica import SimulatedRequest

# A change of direction this soon after the last change is oscillation, later it is traffic.
OSCILLATION_S = 600.0


DEFAULT_SLO = LatencySLO(ttft_s=2.0, inter_token_s=0.1, ttft_per_prompt_token_s=0.001)


def slo_missed(request: SimulatedRequest, slo: LatencySLO, overhead_s: float) -> bool:
    """Whether a finished request missed a limit; `overhead_s` is added to its time to first token."""
    ttft = request.first - request.arrived + overhead_s
    gap = (request.last - request.first) / max(1, request.output - 1)
    return not (slo.ttft_met(ttft, request.prompt) and slo.inter_token_met(gap))


@dataclass(frozen=True, slots=True)
class Score:
    """One run in numbers. Times in seconds.

    Attributes:
        attainment: share of requests that met both goals; one that was cut met none.
        ttft_attainment, inter_token_attainment: the same for each goal.
        goodput: output tokens per second of requests that met both.
        replica_hours: paid, from asking for a replica until it is gone.
        scale_events: changes of the number asked for.
        oscillation: changes of direction within ten minutes of the change before.
        timeline: (time, replicas asked for).
    """

    requests: int
    attainment: float
    ttft_attainment: float
    inter_token_attainment: float
    ttft_p50: float
    ttft_p99: float
    inter_token_p50: float
    inter_token_p99: float
    goodput: float
    replica_hours: float
    scale_events: int
    oscillation: int
    preemptions: int
    cut: int
    timeline: tuple[tuple[float, int], ...]


def score(run: Run, slo: LatencySLO, overhead_s: float) -> Score:
    """Judge what came after the warm-up. `overhead_s` is added to each time to first token."""
    ttfts: list[float] = []
    gaps: list[float] = []
    first_good = gap_good = good = cut = tokens = 0
    for request in run.requests:
        if request.arrived < run.counted_from:
            continue
        ttft = request.first - request.arrived + overhead_s
        gap = (request.last - request.first) / max(1, request.output - 1)
        if math.isnan(ttft) or math.isnan(gap):
            cut += 1
            ttfts.append(math.inf)
            gaps.append(math.inf)
            continue
        ttfts.append(ttft)
        gaps.append(gap)
        first_ok = slo.ttft_met(ttft, request.prompt)
        gap_ok = slo.inter_token_met(gap)
        first_good += first_ok
        gap_good += gap_ok
        if first_ok and gap_ok:
            good += 1
            tokens += request.output
    count = max(1, len(ttfts))
    ttfts.sort()
    gaps.sort()
    changes = [change for change in run.targets if change[0] > run.counted_from]
    return Score(
        requests=len(ttfts),
        attainment=good / count,
        ttft_attainment=first_good / count,
        inter_token_attainment=gap_good / count,
        ttft_p50=_quantile(ttfts, 0.5),
        ttft_p99=_quantile(ttfts, 0.99),
        inter_token_p50=_quantile(gaps, 0.5),
        inter_token_p99=_quantile(gaps, 0.99),
        goodput=tokens / run.seconds if run.seconds else 0.0,
        replica_hours=run.replica_seconds / 3600,
        scale_events=len(changes),
        oscillation=_oscillation(run.targets, run.counted_from),
        preemptions=run.preemptions,
        cut=cut,
        timeline=tuple(run.targets),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return nearest_rank(ordered, share) if ordered else math.nan


def _oscillation(targets: Sequence[tuple[float, int]], since: float) -> int:
    """Turns from up to down or back, soon after the change before."""
    turns, direction, at = 0, 0, -math.inf
    for (_, before), (when, count) in pairwise(targets):
        new = 1 if count > before else -1
        if when > since and direction and new != direction and when - at <= OSCILLATION_S:
            turns += 1
        direction, at = new, when
    return turns
