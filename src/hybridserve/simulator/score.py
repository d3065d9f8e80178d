"""Score of a run: share of requests that met the goals, and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hybridserve.settings.slo import LatencySLO
from hybridserve.simulator.fleet import Run, upper_quantile
from hybridserve.simulator.replica import SimulatedRequest

# An earlier change of direction is oscillation; a later one follows the traffic.
OSCILLATION_S = 600.0


DEFAULT_SLO = LatencySLO(ttft_s=2.0, inter_token_s=0.1, ttft_per_prompt_token_s=0.001)


def slo_met(request: SimulatedRequest, slo: LatencySLO, overhead_s: float) -> tuple[bool, bool]:
    """Whether a finished request met the limit of the first token, and the limit between tokens."""
    return slo.ttft_met(request.ttft + overhead_s, request.prompt), slo.inter_token_met(request.inter_token)


@dataclass(frozen=True, slots=True)
class Score:
    """Numbers of a run. Times in seconds, of the requests that were not refused.

    Attributes:
        attainment: share of requests that met both goals; one that was cut or refused met none.
        admitted_attainment: the same of the requests that were not refused.
        ttft_attainment, inter_token_attainment: the same for each goal.
        good_tokens: output tokens of requests that met both goals.
        goodput: output tokens per second of requests that met both goals.
        replica_hours: paid time, from the start of a replica until it is gone.
        scale_events: changes of the target.
        oscillation: changes of direction within ten minutes after the previous change.
        timeline: (time, target replicas).
    """

    requests: int
    attainment: float
    admitted_attainment: float
    ttft_attainment: float
    inter_token_attainment: float
    ttft_p50: float
    ttft_p99: float
    inter_token_p50: float
    inter_token_p99: float
    good_tokens: int
    goodput: float
    replica_hours: float
    scale_events: int
    oscillation: int
    preemptions: int
    cut: int
    refused: int
    timeline: tuple[tuple[float, int], ...]

    def cost(self, price: float) -> tuple[float, float | None]:
        """Cost of the run, and of a million good tokens (None without any), at a price of a replica-hour."""
        cost = self.replica_hours * price
        return cost, cost / self.good_tokens * 1e6 if self.good_tokens else None


def score(run: Run, slo: LatencySLO, overhead_s: float) -> Score:
    """Score the requests after the warm-up. `overhead_s` is added to each time to first token."""
    ttfts: list[float] = []
    gaps: list[float] = []
    first_good = gap_good = good = cut = refused = tokens = 0
    for request in run.requests:
        if request.arrived < run.counted_from:
            continue
        if request.refused:
            refused += 1
            continue
        ttft, gap = request.ttft + overhead_s, request.inter_token
        if math.isnan(ttft) or math.isnan(gap):
            cut += 1
            ttfts.append(math.inf)
            gaps.append(math.inf)
            continue
        ttfts.append(ttft)
        gaps.append(gap)
        first_ok, gap_ok = slo_met(request, slo, overhead_s)
        first_good += first_ok
        gap_good += gap_ok
        if first_ok and gap_ok:
            good += 1
            tokens += request.output
    count = max(1, len(ttfts) + refused)
    ttfts.sort()
    gaps.sort()
    changes = [change for change in run.targets if change[0] > run.counted_from]
    return Score(
        requests=len(ttfts) + refused,
        attainment=good / count,
        admitted_attainment=good / max(1, len(ttfts)),
        ttft_attainment=first_good / count,
        inter_token_attainment=gap_good / count,
        ttft_p50=_quantile(ttfts, 0.5),
        ttft_p99=_quantile(ttfts, 0.99),
        inter_token_p50=_quantile(gaps, 0.5),
        inter_token_p99=_quantile(gaps, 0.99),
        good_tokens=tokens,
        goodput=tokens / run.seconds if run.seconds else 0.0,
        replica_hours=run.replica_seconds / 3600,
        scale_events=len(changes),
        oscillation=_oscillation(run.targets, run.counted_from),
        preemptions=run.preemptions,
        cut=cut,
        refused=refused,
        timeline=tuple(run.targets),
    )


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    return upper_quantile(ordered, fraction) if ordered else math.nan


def _oscillation(targets: Sequence[tuple[float, int]], since: float) -> int:
    """Changes of direction soon after the previous change."""
    changes = [(time, count > before) for (_, before), (time, count) in pairwise(targets)]
    return sum(
        time > since and up != was_up and time - previous <= OSCILLATION_S
        for (previous, was_up), (time, up) in pairwise(changes)
    )
