"""What a running service no longer satisfies: findings that block now, and since which day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from hybridserve.compliance.evaluate import evaluate
from hybridserve.compliance.findings import Finding, Profile
from hybridserve.compliance.view import DeploymentView
from hybridserve.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Lapse:
    """A finding that blocks now.

    Attributes:
        since: first day on which it blocks because time has passed (a waiver, acceptance, review or evidence ended).
            None where it would have blocked on the day of the start too: something else has changed.
    """

    rule: str
    subject: str
    evidence: str
    since: date | None = None

    def __str__(self) -> str:
        return f"{self.rule}: {self.evidence}"


def lapses(view: DeploymentView, started: date, today: date, profile: Profile) -> tuple[list[Finding], list[Lapse]]:
    """All findings of today, and those that block.

    Args:
        started: day on which the service was checked and started.
    """
    findings = evaluate(view, today)
    blocking = [finding for finding in findings if finding.blocks(profile)]
    if not blocking:
        return findings, []
    return findings, [_lapse(finding, view, started, today, profile) for finding in blocking]


def _lapse(finding: Finding, view: DeploymentView, started: date, today: date, profile: Profile) -> Lapse:
    def blocks(day: date) -> bool:
        same = (finding.rule, finding.subject)
        return any((one.rule, one.subject) == same and one.blocks(profile) for one in evaluate(view, day))

    since: date | None = None
    if today > started and not blocks(started):
        good, bad = started, today  # what has ended does not begin again, so the first day is found by halving
        while (bad - good).days > 1:
            middle = good + timedelta(days=(bad - good).days // 2)
            good, bad = (good, middle) if blocks(middle) else (middle, bad)
        since = bad
    return Lapse(finding.rule, finding.subject, finding.evidence, since)


def overdue(lapsed: Sequence[Lapse], today: date, grace_days: int) -> list[Lapse]:
    """Of lapses with a day, those whose grace period is over."""
    return [lapse for lapse in lapsed if lapse.since is not None and (today - lapse.since).days >= grace_days]
