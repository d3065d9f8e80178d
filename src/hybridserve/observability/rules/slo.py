"""Service level objectives as Prometheus rules: error ratios over eight windows, and alerts on two at a time.

Names and labels of the recordings are those of sloth, so that its dashboards work unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hybridserve.settings.telemetry import TelemetrySection

# On Kubernetes two releases may serve the same model in a namespace; elsewhere no series has a release.
BY = "namespace, release, model"
# Reasons that are the service's fault, not the client's.
SERVER_FAULTS = (
    "draining|guard_canary|guard_unavailable|engine_unavailable|engine_error|stream_unreadable|stream_interrupted"
)
# (short window, long window, share of the budget used in the long one, its hours, severity).
_ALERTS: tuple[tuple[str, str, float, int, Severity], ...] = (
    ("5m", "1h", 0.02, 1, "page"),
    ("30m", "6h", 0.05, 6, "page"),
    ("2h", "1d", 0.10, 24, "ticket"),
    ("6h", "3d", 0.10, 72, "ticket"),
)
Severity = Literal["page", "ticket"]
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# With fewer requests in the last hour a single slow one would burn the budget.
MIN_REQUESTS = 20
# A budget of a tenth cannot burn 14.4 times too fast: at 10 every request is bad. Nearly all bad always counts.
_NEARLY_ALL = 0.9


@dataclass(frozen=True, slots=True)
class SLO:
    """One objective.

    Attributes:
        objective: share of good events.
        bad, total: PromQL with ``$window``, rates by namespace, release and model.
        goal: what a good event is.
    """

    name: str
    alert: str
    objective: float
    bad: str
    total: str
    goal: str

    def error(self, window: str) -> str:
        """Share of bad events in this window; no series without events."""
        return f"({self.bad}) / (({self.total}) > 0)".replace("$window", window)


def objectives(section: TelemetrySection) -> tuple[SLO, ...]:
    """The four objectives with the targets of the settings."""
    return (
        _latency(
            "ttft",
            "HybridServeTTFTBudgetBurn",
            "vllm:time_to_first_token_seconds",
            section.slo_ttft_s,
            section.slo_ttft,
            "time to first token within {:g} s",
        ),
        _latency(
            "inter-token",
            "HybridServeInterTokenBudgetBurn",
            "vllm:request_time_per_output_token_seconds",
            section.slo_inter_token_s,
            section.slo_inter_token,
            "mean time per output token within {:g} s",
        ),
        _availability(section.slo_availability),
        SLO(
            "attainment",
            "HybridServeAttainmentBudgetBurn",
            section.slo_attainment,
            f'sum by ({BY}) (rate(hybridserve_requests_slo_total{{outcome!="good"}}[$window]))',
            f"sum by ({BY}) (rate(hybridserve_requests_slo_total[$window]))",
            "both latency targets met",
        ),
    )


def _latency(name: str, alert: str, metric: str, limit: float, objective: float, goal: str) -> SLO:
    total = f"sum by ({BY}) (rate({metric}_count[$window]))"
    good = f'sum by ({BY}) (rate({metric}_bucket{{le="{limit}"}}[$window]))'
    return SLO(name, alert, objective, f"{total} - {good}", total, goal.format(limit))


def _availability(objective: float) -> SLO:
    admitted = f"sum by ({BY}) (rate(hybridserve_requests_admitted_total[$window]))"
    rejected = f'sum by ({BY}) (rate(hybridserve_requests_rejected_total{{reason=~"{SERVER_FAULTS}"}}[$window]))'
    # Failures after a request was forwarded count as aborted streams, before the status 200 or after it.
    aborted = f'sum by ({BY}) (rate(hybridserve_streams_aborted_total{{reason=~"{SERVER_FAULTS}"}}[$window]))'
    # A series that does not exist yet counts as zero, with the labels of another that does.
    known = f"(({rejected}) or 0 * ({admitted}))"
    bad = f"{known} + (({aborted}) or 0 * {known})"
    total = f"(({admitted}) or 0 * ({rejected})) + {known}"
    return SLO("availability", "HybridServeAvailabilityBudgetBurn", objective, bad, total, "no server error")


def recordings(section: TelemetrySection, service: str = "hybridserve") -> list[dict[str, Any]]:
    """Recording rules of all objectives."""
    rules: list[dict[str, Any]] = []
    period = f"{section.slo_days}d"
    for slo in objectives(section):
        labels = {"sloth_service": service, "sloth_slo": slo.name, "sloth_id": f"{service}-{slo.name}"}
        chosen = f'{{sloth_id="{service}-{slo.name}"}}'
        # The period is summed from the five-minute ratios: a rate over a month would read a month of raw samples.
        short, whole = f"slo:sli_error:ratio_rate5m{chosen}", f"slo:sli_error:ratio_rate{period}"
        errors = {window: slo.error(window) for window in WINDOWS}
        errors[period] = f"sum_over_time({short}[{period}]) / count_over_time({short}[{period}])"
        for window, expr in errors.items():
            record = f"slo:sli_error:ratio_rate{window}"
            rules.append({"record": record, "expr": expr, "labels": {**labels, "sloth_window": window}})
        budget = f"{_budget(slo):g}"
        ratios = {
            "objective": f"vector({slo.objective:g})",
            "error_budget": f"vector({budget})",
            "current_burn_rate": f"{short} / {budget}",
            "period_error_budget_remaining": f"1 - {whole}{chosen} / {budget}",
        }
        rules += [{"record": f"slo:{name}:ratio", "expr": expr, "labels": labels} for name, expr in ratios.items()]
    return rules


def burn_alerts(section: TelemetrySection, service: str = "hybridserve") -> list[tuple[SLO, Severity, str]]:
    """(objective, severity, expression) of every burn-rate alert: a page and a ticket per objective."""
    alerts = []
    for slo in objectives(section):
        severity: Severity
        for severity in ("page", "ticket"):
            pairs = [
                _pair(slo, service, short, long, share * section.slo_days * 24 / hours)
                for short, long, share, hours, kind in _ALERTS
                if kind == severity
            ]
            busy = slo.total.replace("rate(", "increase(").replace("$window", "1h")
            alerts.append((slo, severity, f"({' or '.join(pairs)}) and on ({BY}) (({busy}) > {MIN_REQUESTS})"))
    return alerts


def _pair(slo: SLO, service: str, short: str, long: str, factor: float) -> str:
    threshold = min(factor * _budget(slo), _NEARLY_ALL)
    chosen = f'{{sloth_id="{service}-{slo.name}"}}'
    return (
        f"(max without (sloth_window) (slo:sli_error:ratio_rate{short}{chosen}) > {threshold:g} and "
        f"max without (sloth_window) (slo:sli_error:ratio_rate{long}{chosen}) > {threshold:g})"
    )


def _budget(slo: SLO) -> float:
    return round(1 - slo.objective, 9)
