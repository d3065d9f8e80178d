"""What a run measured: records in, one summary out. Seconds and tokens; the words are defined here and nowhere else.

====================  ==================================================  =======================================
here                  definition                                          the same number elsewhere
====================  ==================================================  =======================================
ttft                  first token - intended start                        vLLM bench TTFT, GuideLLM TTFT (from send)
tpot                  (last token - first token) / (output tokens - 1)    vLLM bench TPOT (*), GuideLLM "ITL"
itl                   all gaps between chunks, pooled over requests       vLLM bench ITL
e2e                   last event - intended start                         vLLM bench E2EL, GuideLLM request latency
norm_tpot             e2e / output tokens                                 GuideLLM "TPOT", inference-perf NTPOT
ttfa                  first token that is not reasoning - intended start  GuideLLM time to first output token
output_throughput     output tokens of whole answers / duration           vLLM bench output throughput
goodput               requests/s that meet every limit at once            vLLM bench request goodput
attainment            their share of all attempted, failures included     AIPerf good request fraction
====================  ==================================================  =======================================

(*) For chat, vLLM bench counts the role chunk as the first and the usage event as the last; vLLM sends them together
with the first and the last token.

Those tools count from the send; we count from the *intended* start, which in a closed loop is the same instant. The
difference in an open loop is reported as `schedule_lag`. Duration is from the first intended start to the last event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.statistics import Distribution, Interval, wilson
from hybridserve.settings.slo import LatencySLO


@dataclass(frozen=True, slots=True)
class Summary:
    """One run, or one part of it. Times in seconds, rates per second."""

    attempted: int
    completed: int
    as_expected: int
    outcomes: dict[str, int]
    duration: float
    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    e2e: Distribution | None
    norm_tpot: Distribution | None
    ttfa: Distribution | None
    schedule_lag: Distribution | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    request_throughput: float
    output_throughput: float
    total_throughput: float
    goodput: float
    attainment: Interval | None
    peak_concurrency: int
    mean_concurrency: float
    tokens_per_chunk: float | None
    usage_share: float
    """Share of completed requests whose tokens the server counted."""

    @property
    def error_rate(self) -> float:
        return (self.attempted - self.as_expected) / self.attempted if self.attempted else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error_rate": self.error_rate}


def summarise(records: Sequence[Record], limits: LatencySLO | None = None, warm_up: bool = False) -> Summary:
    """Measures over the requests that were not warm-up (or over only those that were, with `warm_up`).

    A request that failed has no latency of its own, but stays in `attempted`, `error_rate` and `attainment`.
    """
    limits = limits or LatencySLO()
    chosen = [one for one in records if one.warm_up == warm_up]
    whole = [one for one in chosen if one.ok]
    good = sum(_good(one, limits) for one in chosen)
    duration = max(one.sent + one.end for one in chosen) - min(one.intended for one in chosen) if chosen else 0.0
    output = sum(one.output_tokens for one in whole)
    prompt = sum(one.prompt_tokens for one in whole)
    chunks = sum(len(one.chunks) for one in whole)

    def per_second(count: float) -> float:
        return count / duration if duration > 0 else 0.0

    return Summary(
        attempted=len(chosen),
        completed=len(whole),
        as_expected=sum(one.as_expected for one in chosen),
        outcomes=dict(Counter(str(one.outcome) for one in chosen).most_common()),
        duration=duration,
        ttft=Distribution.of([one.ttft for one in whole if one.ttft is not None]),
        tpot=Distribution.of([one.tpot for one in whole if one.tpot is not None]),
        itl=Distribution.of([gap for one in whole for gap in one.itls]),
        e2e=Distribution.of([one.e2e for one in whole]),
        norm_tpot=Distribution.of([one.e2e / one.output_tokens for one in whole if one.output_tokens]),
        ttfa=Distribution.of([one.queued + one.first_answer for one in whole if one.first_answer is not None]),
        schedule_lag=Distribution.of([one.queued for one in chosen]),
        prompt_tokens=prompt,
        cached_tokens=sum(one.cached_tokens for one in whole),
        output_tokens=output,
        reasoning_tokens=sum(one.reasoning_tokens for one in whole),
        request_throughput=per_second(len(whole)),
        output_throughput=per_second(output),
        total_throughput=per_second(prompt + output),
        goodput=per_second(good),
        attainment=wilson(good, len(chosen)) if chosen else None,
        peak_concurrency=peak_concurrency(chosen),
        mean_concurrency=per_second(sum(one.end for one in chosen)),
        tokens_per_chunk=output / chunks if chunks else None,
        usage_share=sum(one.usage for one in whole) / len(whole) if whole else 0.0,
    )


def peak_concurrency(records: Sequence[Record]) -> int:
    """Most requests that were out at one instant."""
    edges = sorted(
        [(one.sent, 1) for one in records] + [(one.sent + one.end, -1) for one in records],
        key=lambda edge: (edge[0], edge[1]),
    )
    running = most = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    return most


_STEPS, _BANDS = 16, 8


def by_level(records: Sequence[Record], limits: LatencySLO | None = None) -> dict[float, Summary]:
    """One summary for each load level, in rising order; a curve without steps is cut into eight bands of equal width.

    A band goes by the mean level of its requests.
    """
    chosen = [one for one in records if not one.warm_up]
    levels = sorted({one.level for one in chosen})
    parts: dict[float, list[Record]] = {}
    width = (levels[-1] - levels[0]) / _BANDS if len(levels) > _STEPS else 0.0
    for one in chosen:
        key = min(int((one.level - levels[0]) / width), _BANDS - 1) if width else one.level
        parts.setdefault(key, []).append(one)
    if width:
        parts = {round(sum(one.level for one in part) / len(part), 3): part for part in parts.values()}
    return {level: summarise(parts[level], limits) for level in sorted(parts)}


def saturation(levels: Mapping[float, Summary], share: float = 0.95) -> float | None:
    """The lowest level with `share` of the highest output throughput; None where that is the highest level.

    Below it more load still brings more tokens; above it only longer queues.
    """
    if len(levels) < 3:
        return None
    most = max(one.output_throughput for one in levels.values())
    first = min(level for level, one in levels.items() if one.output_throughput >= share * most)
    return first if first < max(levels) else None


def by_kind(records: Sequence[Record], limits: LatencySLO | None = None) -> dict[str, Summary]:
    """One summary for each part of the scenario's mix."""
    kinds = sorted({one.kind for one in records if not one.warm_up})
    return {kind: summarise([one for one in records if one.kind == kind], limits) for kind in kinds}


def tokens_over_time(records: Sequence[Record], step: float = 1.0) -> list[tuple[float, float]]:
    """(seconds since the start, output tokens/s) by the arrival of tokens."""
    if not records:
        return []
    start = min(one.intended for one in records)
    counts: Counter[int] = Counter()
    for one in records:
        share = one.output_tokens / len(one.chunks) if one.chunks else 0.0
        for at in one.chunks:
            counts[int((one.sent + at - start) / step)] += share  # type: ignore[assignment]
    if not counts:
        return []
    return [(index * step, counts[index] / step) for index in range(max(counts) + 1)]


def _good(record: Record, slo: LatencySLO) -> bool:
    """All limits are met. An answer of one token has no time per output token, and meets that limit."""
    if not record.as_expected:
        return False
    if not record.ok:
        return slo.e2e_met(record.e2e)
    first = slo.ttft_s is None or (record.ttft is not None and slo.ttft_met(record.ttft))
    return first and slo.inter_token_met(record.tpot or 0.0) and slo.e2e_met(record.e2e)
