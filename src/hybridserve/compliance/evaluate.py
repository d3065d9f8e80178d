"""Run every rule on a deployment view and apply waivers. Pure: the day is an argument and no file is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date

from hybridserve.compliance.findings import Finding, Outcome, passed
from hybridserve.compliance.rules.attribution import ATTRIBUTION
from hybridserve.compliance.rules.base import DatedCheck, Rule
from hybridserve.compliance.rules.engine import ENGINE
from hybridserve.compliance.rules.engine_arguments import ENGINE_ARGUMENTS
from hybridserve.compliance.rules.exposure import EXPOSURE
from hybridserve.compliance.rules.guard import GUARD
from hybridserve.compliance.rules.license import LICENSE, is_current
from hybridserve.compliance.rules.parsers import PARSERS
from hybridserve.compliance.view import DeploymentView
from hybridserve.settings.license import Waiver

_CHECKS = (*LICENSE, *ATTRIBUTION, *GUARD, *ENGINE, *ENGINE_ARGUMENTS, *PARSERS, *EXPOSURE)
RULES: tuple[Rule, ...] = tuple(rule for rule, _ in _CHECKS)
"""All rules that need no running service."""

WAIVER_RULE = "license.waivers"


def evaluate(view: DeploymentView, today: date) -> list[Finding]:
    """Check a deployment against all rules.

    Args:
        today: reviews, acceptances and waivers expire relative to this day.

    Returns:
        One finding per rule and subject, in the order of the rules. A rule that does not apply gives one PASS.
    """
    return [finding for rule, check in _CHECKS for finding in _findings(rule, check, view, today)]


def _findings(rule: Rule, check: DatedCheck, view: DeploymentView, today: date) -> Iterator[Finding]:
    result = check(view, today)
    outcomes = [result] if isinstance(result, Outcome) else list(result or ())
    if not outcomes:
        yield rule.finding(passed("does not apply to this deployment"), applies=False)
    for outcome in outcomes:
        yield _apply_waivers(rule.finding(outcome), view.waivers, today)


def _apply_waivers(finding: Finding, waivers: Sequence[Waiver], today: date) -> Finding:
    # The rule that checks the waivers cannot be waived.
    if finding.status == "PASS" or finding.rule == WAIVER_RULE:
        return finding
    for waiver in waivers:
        if waiver.rule == finding.rule and waiver.subject in (None, finding.subject) and is_current(waiver, today):
            reason = f"by {waiver.by} until {waiver.until}: {waiver.reason}"
            return replace(finding, status="WAIVED", waiver=reason)
    return finding
