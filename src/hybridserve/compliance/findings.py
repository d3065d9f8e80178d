"""Outcomes and findings of rules, and what they mean for a deployment under a profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Literal, get_args

from hybridserve.fast_dataclass import dataclass

Status = Literal["PASS", "FAIL", "WAIVED", "UNKNOWN"]
Result = Literal["PASS", "FAIL", "WAIVED", "UNKNOWN", "NOTE", "NOT_APPLICABLE"]
Severity = Literal["error", "warning", "note"]
Family = Literal["license", "guard", "engine", "exposure", "evidence"]
Profile = Literal["production", "staging", "demo"]
ComplianceStatus = Literal["ready", "warn", "refuse"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One result of a check, before waivers.

    `basis` and `remedy` replace the rule's own where an exact clause, or what to do about this subject, is known.
    """

    status: Literal["PASS", "FAIL", "UNKNOWN"]
    evidence: str
    subject: str = ""
    basis: str | None = None
    remedy: str | None = None


def passed(evidence: str, subject: str = "", basis: str | None = None) -> Outcome:
    """The rule is satisfied by `evidence`."""
    return Outcome("PASS", evidence, subject, basis)


def failed(evidence: str, subject: str = "", basis: str | None = None, remedy: str | None = None) -> Outcome:
    """The rule is broken by `evidence`, which names what was found."""
    return Outcome("FAIL", evidence, subject, basis, remedy)


def unknown(evidence: str, subject: str = "", basis: str | None = None, remedy: str | None = None) -> Outcome:
    """The rule cannot be checked; `evidence` names what is missing."""
    return Outcome("UNKNOWN", evidence, subject, basis, remedy)


def require(condition: bool, evidence: str, subject: str = "", basis: str | None = None) -> Outcome:
    """PASS if `condition` is true, else FAIL, with the same evidence."""
    return Outcome("PASS" if condition else "FAIL", evidence, subject, basis)


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of one rule about one subject.

    Attributes:
        subject: a license, a file, a setting or a model; empty for the deployment as a whole.
        basis: the clause, public issue or measurement that the rule is based on.
        applies: False where the rule does not apply to this deployment; such a finding is a PASS.
        waiver: who waived it, why and until when, for WAIVED.
    """

    rule: str
    family: Family
    severity: Severity
    status: Status
    title: str
    subject: str
    evidence: str
    basis: str
    remedy: str
    applies: bool = True
    waiver: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def blocks(self, profile: Profile) -> bool:
        """Whether this finding keeps the service from becoming ready.

        Production refuses what fails and what cannot be checked; staging refuses only what fails; demo only warns.
        """
        if self.severity != "error" or profile == "demo":
            return False
        return self.status == "FAIL" or (self.status == "UNKNOWN" and profile == "production")

    @property
    def result(self) -> Result:
        """What people read and count: the status, except where the finding changes no verdict.

        NOTE: a note that failed or could not be checked. NOT_APPLICABLE: the rule does not apply to this deployment.
        """
        if not self.applies:
            return "NOT_APPLICABLE"
        return "NOTE" if self.severity == "note" and self.status in ("FAIL", "UNKNOWN") else self.status

    @property
    def open(self) -> bool:
        """Whether it needs attention: it failed or could not be checked, and is more than a note."""
        return self.status in ("FAIL", "UNKNOWN") and self.severity != "note"


def result_counts(findings: Iterable[Finding]) -> dict[Result, int]:
    """The number of findings with each result, without those that no finding has."""
    counts = Counter(finding.result for finding in findings)
    return {result: counts[result] for result in get_args(Result) if counts[result]}


def compliance_status(findings: Iterable[Finding], profile: Profile) -> ComplianceStatus:
    """Whether the service becomes ready, becomes ready with a warning, or refuses to."""
    findings = tuple(findings)
    if any(finding.blocks(profile) for finding in findings):
        return "refuse"
    return "warn" if any(finding.open for finding in findings) else "ready"
