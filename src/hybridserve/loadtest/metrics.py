"""Measures of a run, from its records. Seconds and tokens; every measure is defined here.

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

Those tools measure from the send; this one measures from the *intended* start, which is the same in a closed loop. The
difference in an open loop is `schedule_lag`. Duration is from the first intended start to the last event.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain
from typing import Any

from hybridserve.loadtest.request_record import Record
from hybridserve.loadtest.statistics import Distribution, Interval, wilson
from hybridserve.settings.slo import LatencySLO


@dataclass(frozen=True, slots=True)
class Summary:
    """A run, or a part of it. Times in seconds, rates per second."""

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
    cached_tokens: int | None
    """None where the server reported them for no request."""
    output_tokens: int
    reasoning_tokens: int
    request_throughput: float
    output_throughput: float
    total_throughput: float
    goodput: float
    attainment: Interval | None
    missed: dict[str, int]
    """Requests that did not keep a limit, by limit; those with another outcome than expected are `failed`."""
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


def summarize(records: Sequence[Record], limits: LatencySLO | None = None, warm_up: bool = False) -> Summary:
    """Measures of the requests after the warm-up (or of the warm-up, with `warm_up`).

    A failed request has no latency, but stays in `attempted`, `error_rate` and `attainment`.
    """
    limits = limits or LatencySLO()
    chosen = [record for record in records if record.warm_up == warm_up]
    whole = [record for record in chosen if record.ok]
    missed = [missed_limits(record, limits) for record in chosen]
    good = missed.count(())
    duration = (
        max(record.sent + record.end for record in chosen) - min(record.intended for record in chosen)
        if chosen
        else 0.0
    )
    output = sum(record.output_tokens for record in whole)
    prompt = sum(record.prompt_tokens for record in whole)
    cached = [record.cached_tokens for record in whole if record.cached_tokens is not None]
    chunks = sum(len(record.chunks) for record in whole)

    def per_second(count: float) -> float:
        return count / duration if duration > 0 else 0.0

    return Summary(
        attempted=len(chosen),
        completed=len(whole),
        as_expected=sum(record.as_expected for record in chosen),
        outcomes=dict(Counter(str(record.outcome) for record in chosen).most_common()),
        duration=duration,
        ttft=Distribution.of([record.ttft for record in whole if record.ttft is not None]),
        tpot=Distribution.of([record.tpot for record in whole if record.tpot is not None]),
        itl=Distribution.of([gap for record in whole for gap in record.itls]),
        e2e=Distribution.of([record.e2e for record in whole]),
        norm_tpot=Distribution.of([record.e2e / record.output_tokens for record in whole if record.output_tokens]),
        ttfa=Distribution.of(
            [record.queued + record.first_answer for record in whole if record.first_answer is not None]
        ),
        schedule_lag=Distribution.of([record.queued for record in chosen]),
        prompt_tokens=prompt,
        cached_tokens=sum(cached) if cached else None,
        output_tokens=output,
        reasoning_tokens=sum(record.reasoning_tokens for record in whole),
        request_throughput=per_second(len(whole)),
        output_throughput=per_second(output),
        total_throughput=per_second(prompt + output),
        goodput=per_second(good),
        attainment=wilson(good, len(chosen)) if chosen else None,
        missed=dict(Counter(chain.from_iterable(missed)).most_common()),
        peak_concurrency=peak_concurrency(chosen),
        mean_concurrency=per_second(sum(record.end for record in chosen)),
        tokens_per_chunk=output / chunks if chunks else None,
        usage_share=sum(record.usage for record in whole) / len(whole) if whole else 0.0,
    )


def peak_concurrency(records: Sequence[Record]) -> int:
    """Largest number of simultaneous requests."""
    edges = sorted([(record.sent, 1) for record in records] + [(record.sent + record.end, -1) for record in records])
    return max(accumulate((step for _, step in edges), initial=0))


_STEPS, _BANDS = 16, 8


def by_level(records: Sequence[Record], limits: LatencySLO | None = None) -> dict[float, Summary]:
    """A summary for each load level, ascending. A continuous curve is divided into eight bands of equal width.

    A band is named by the mean level of its requests.
    """
    chosen = [record for record in records if not record.warm_up]
    levels = sorted({record.level for record in chosen})
    parts: dict[float, list[Record]] = {}
    width = (levels[-1] - levels[0]) / _BANDS if len(levels) > _STEPS else 0.0
    for record in chosen:
        key = min(int((record.level - levels[0]) / width), _BANDS - 1) if width else record.level
        parts.setdefault(key, []).append(record)
    if width:
        parts = {round(sum(record.level for record in part) / len(part), 3): part for part in parts.values()}
    return {level: summarize(parts[level], limits) for level in sorted(parts)}


def saturation(levels: Mapping[float, Summary], share: float = 0.95) -> float | None:
    """The lowest level with `share` of the highest output throughput; None when that is the highest level.

    Above it, more load only makes queues longer.
    """
    if len(levels) < 3:
        return None
    most = max(summary.output_throughput for summary in levels.values())
    first = min(level for level, summary in levels.items() if summary.output_throughput >= share * most)
    return first if first < max(levels) else None


def by_kind(records: Sequence[Record], limits: LatencySLO | None = None) -> dict[str, Summary]:
    """A summary for each kind of the scenario's mix."""
    kinds = sorted({record.kind for record in records if not record.warm_up})
    return {kind: summarize([record for record in records if record.kind == kind], limits) for kind in kinds}


def tokens_over_time(records: Sequence[Record], step: float = 1.0) -> list[tuple[float, float]]:
    """(seconds since the start, output tokens/s), by the arrival of tokens."""
    if not records:
        return []
    start = min(record.intended for record in records)
    counts: defaultdict[int, float] = defaultdict(float)
    for record in records:
        share = record.output_tokens / len(record.chunks) if record.chunks else 0.0
        for at in record.chunks:
            counts[int((record.sent + at - start) / step)] += share
    return [(index * step, counts[index] / step) for index in range(max(counts, default=-1) + 1)]


def missed_limits(record: Record, slo: LatencySLO) -> tuple[str, ...]:
    """The limits that a request did not keep. An answer of one token has no TPOT and keeps its limit."""
    if not record.as_expected:
        return ("failed",)
    late_first = slo.ttft_s is not None and (record.ttft is None or not slo.ttft_met(record.ttft))
    found = {
        "ttft": record.ok and late_first,
        "tpot": record.ok and not slo.inter_token_met(record.tpot or 0.0),
        "e2e": not slo.e2e_met(record.e2e),
    }
    return tuple(name for name, is_missed in found.items() if is_missed)
