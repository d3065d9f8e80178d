"""Section `verify`: the numeric check of an engine before it serves, and the record of one."""

from pathlib import Path

from pydantic import Field

from hybridserve.settings.section import Section


class VerifySection(Section):
    """Numeric check of the engine: see `hybridserve verify`."""

    at_start: bool = False
    """Each replica checks its engine's log-probabilities before it becomes ready. Until the check passes it is
    not ready and rejects requests with 503; a failed check is not repeated."""
    reference_file: Path | None = None
    """Reference that `hybridserve verify --record` wrote. Empty: the engine is compared with itself only."""
    record_file: Path | None = None
    """With `at_start` and no reference: where a replica that passed writes a reference of its own engine."""
    false_alarm_rate: float = Field(default=0.005, gt=0, lt=0.5)
    """How often a right engine may fail one run of the check."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Requests at a time in the concurrent conditions."""
    pressure: int = Field(default=32, ge=0, le=1024)
    """Requests that are sent at once to cause preemptions; 0 leaves that condition out."""

    evidence_file: Path | None = None
    """Record that `hybridserve verify --evidence` wrote; rule `engine.verified` reads it."""
    evidence_max_age_days: int = Field(default=90, ge=1, le=366)
    """Maximum age of that record."""
