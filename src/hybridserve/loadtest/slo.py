"""The gate: does a run keep what the scenario promises?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from hybridserve.loadtest.client_health import Health
from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.scenario import LoadTestSLO

SLOStatus = Literal["kept", "missed", "void"]
EXIT_CODES: dict[SLOStatus, int] = {"kept": 0, "missed": 1, "void": 3}
"""2 is bad input, as everywhere in hybridserve."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise. `value` is None where nothing was measured, which never keeps it."""

    name: str
    limit: float
    value: float | None
    kept: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def gate(summary: Summary, slo: LoadTestSLO) -> tuple[Check, ...]:
    """Every promise of the scenario, held against the run."""
    attainment = summary.attainment.value if summary.attainment is not None else None
    errors = summary.error_rate if summary.attempted else None
    checks = [
        Check("goodput", slo.goodput, attainment, attainment is not None and attainment >= slo.goodput),
        Check("errors", slo.errors, errors, errors is not None and errors <= slo.errors),
    ]
    for name, limit in slo.percentiles.items():
        measure, rank = name.split("_")
        spread = getattr(summary, measure)
        value = None if spread is None else float(getattr(spread, rank))
        checks.append(Check(name, limit, value, value is not None and value <= limit))
    return tuple(checks)


def slo_status(checks: tuple[Check, ...], health: Health) -> SLOStatus:
    """Void before missed: a client that could not keep up says nothing about the server."""
    if not health.valid:
        return "void"
    return "kept" if all(check.kept for check in checks) else "missed"
