"""From a view to findings: every rule once, waivers last. No clock, no files: the day is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date

from hybridserve.compliance.findings import Finding, Outcome, passed
from hybridserve.compliance.rules.base import Rule
from hybridserve.compliance.rules.engine import ENGINE
from hybridserve.compliance.rules.exposure import EXPOSURE
from hybridserve.compliance.rules.guard import GUARD
from hybridserve.compliance.rules.license import LICENSE
from hybridserve.compliance.view import DeploymentView, WaiverRecord

RULES: tuple[Rule, ...] = (*LICENSE, *GUARD, *ENGINE, *EXPOSURE)
"""All rules that need no running service."""

WAIVER_RULE = "license.waivers"


def evaluate(view: DeploymentView, today: date, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """Judge a deployment.

    Args:
        today: the day to judge by: readings, acceptances and waivers age.

    Returns:
        One finding per rule and subject, in the order of the rules; a rule that does not apply leaves one PASS.
    """
    return [finding for rule in rules for finding in _findings(rule, view, today)]


def _findings(rule: Rule, view: DeploymentView, today: date) -> Iterator[Finding]:
    outcomes = list(rule.check(view, today))
    applies = bool(outcomes)
    for outcome in outcomes or [passed("does not apply here")]:
        finding = Finding(
            rule=rule.id,
            family=rule.family,
            severity=rule.severity,
            status=outcome.status,
            title=rule.title,
            subject=outcome.subject,
            evidence=outcome.evidence,
            basis=outcome.basis or rule.basis,
            remedy=rule.remedy,
            applies=applies,
        )
        yield finding if outcome.status == "PASS" else _waive(finding, outcome, view.declared.waivers, today)


def _waive(finding: Finding, outcome: Outcome, waivers: Sequence[WaiverRecord], today: date) -> Finding:
    # The rule that watches over waivers cannot be waived away.
    if finding.rule == WAIVER_RULE:
        return finding
    for waiver in waivers:
        if waiver.rule == finding.rule and waiver.subject in (None, outcome.subject) and today <= waiver.until:
            told = f"by {waiver.by} until {waiver.until}: {waiver.reason}"
            return replace(finding, status="WAIVED", waiver=told)
    return finding
