"""What a rule is, how a family of rules is registered, and helpers that rules share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import Any

from hybridserve.catalog.licenses import License, Obligation, Term
from hybridserve.compliance.findings import Family, Finding, Outcome, Severity, failed, require
from hybridserve.compliance.view import DeploymentView, Part
from hybridserve.fast_dataclass import dataclass

Result = Iterable[Outcome] | Outcome | None
"""Of one check: an outcome, one per subject, or None (or no outcomes) where the rule does not apply."""
Check = Callable[[DeploymentView], Result]
DatedCheck = Callable[[DeploymentView, date], Result]
Condition = Callable[[DeploymentView], bool]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        title: what is true when the rule passes.
        basis: the clause, public issue or measurement that the rule is based on.
        remedy: what to do when it fails.
    """

    id: str
    family: Family
    severity: Severity
    title: str
    basis: str
    remedy: str

    def finding(self, outcome: Outcome, *, applies: bool = True) -> Finding:
        """The finding for one outcome of this rule, before waivers."""
        return Finding(
            rule=self.id,
            family=self.family,
            severity=self.severity,
            status=outcome.status,
            title=self.title,
            subject=outcome.subject,
            evidence=outcome.evidence,
            basis=outcome.basis or self.basis,
            remedy=outcome.remedy or self.remedy,
            applies=applies,
        )


class RuleFamily(list[tuple[Rule, DatedCheck]]):
    """The rules of one family with their checks, in the order of definition."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def rule(
        self,
        name: str,
        title: str,
        *,
        basis: str,
        remedy: str,
        severity: Severity = "error",
        when: Condition = lambda _: True,
    ) -> Callable[[Check], Check]:
        """Register the decorated check as rule ``family.name``; it runs only where `when` is true."""

        def register(check: Check) -> Check:
            rule = Rule(f"{self.family}.{name}", self.family, severity, title, basis, remedy)
            self.append((rule, lambda view, _today: check(view) if when(view) else None))
            return check

        return register

    def dated_rule(self, name: str, title: str, *, basis: str, remedy: str) -> Callable[[DatedCheck], DatedCheck]:
        """The same for a check whose outcome depends on the day."""

        def register(check: DatedCheck) -> DatedCheck:
            self.append((Rule(f"{self.family}.{name}", self.family, "error", title, basis, remedy), check))
            return check

        return register


def duties(
    view: DeploymentView, term: Term, parts: Iterable[Part] | None = None
) -> Iterator[tuple[Part, License, Obligation]]:
    """Duties of one kind that apply to these parts of the deployment; to all without `parts`."""
    for part in view.parts if parts is None else parts:
        for license in part.licenses:
            for duty in license.terms(term):
                if applies(duty, part):
                    yield part, license, duty


def applies(duty: Obligation, part: Part) -> bool:
    """Whether the way in which the part is used triggers the duty."""
    family = part.entry.family if part.entry else None
    return bool(part.triggers & set(duty.when)) and duty.only in (None, family)


def clause(license: License, duty: Obligation) -> str:
    """The source of a duty: ``NVIDIA Open Model License Agreement (2025-10-24) section 3.1``."""
    return f"{license.title} ({license.version}) section {duty.clause}"


def record_outcomes(
    record: Mapping[str, Any], expected: Mapping[str, Any], limit_days: int, today: date
) -> Iterator[Outcome]:
    """Whether a record is about this deployment (`expected`) and at most `limit_days` old."""
    about = record.get("about") or {}
    for name, value in expected.items():
        yield require(about.get(name) == value, f"collected for {about.get(name)}, deployed is {value}", name)
    try:
        age = (today - datetime.fromisoformat(str(record.get("finished"))).date()).days
    except ValueError:
        yield failed("the record has no date", "age")
        return
    yield require(0 <= age <= limit_days, f"{age} days old; the limit is {limit_days}", "age")


def is_commit(revision: str | None) -> bool:
    """Whether it is a full commit hash, which identifies its content."""
    return bool(_COMMIT.fullmatch(revision or ""))


def is_loopback(host: str) -> bool:
    """Whether the host name or address is the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
