"""What a rule says about a deployment, and what follows from it under a profile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["PASS", "FAIL", "WAIVED", "UNKNOWN"]
Severity = Literal["error", "warning", "note"]
Family = Literal["license", "guard", "engine", "exposure", "evidence"]
Profile = Literal["production", "staging", "demo"]
ComplianceStatus = Literal["ready", "warn", "refuse"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer of a rule's check, before waivers. `basis` replaces the rule's own where a clause is known."""

    status: Literal["PASS", "FAIL", "UNKNOWN"]
    evidence: str
    subject: str = ""
    basis: str | None = None


def passed(evidence: str, subject: str = "", basis: str | None = None) -> Outcome:
    """The rule holds, because of `evidence`."""
    return Outcome("PASS", evidence, subject, basis)


def failed(evidence: str, subject: str = "", basis: str | None = None) -> Outcome:
    """The rule is broken: `evidence` says what was found."""
    return Outcome("FAIL", evidence, subject, basis)


def unknown(evidence: str, subject: str = "", basis: str | None = None) -> Outcome:
    """The rule cannot be judged: `evidence` says what is missing."""
    return Outcome("UNKNOWN", evidence, subject, basis)


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict of one rule about one subject.

    Attributes:
        subject: what it is about (a license, a file, a setting); empty for the deployment as a whole.
        basis: clause, public issue or measurement the rule rests on.
        applies: False where the rule has nothing to say here; such a finding is a PASS.
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
        """Does this finding keep the service from becoming ready?

        Production refuses what fails and what cannot be judged; staging only what fails; a demo only warns.
        """
        if self.severity != "error" or profile == "demo":
            return False
        return self.status == "FAIL" or (self.status == "UNKNOWN" and profile == "production")

    @property
    def open(self) -> bool:
        """Somebody has to look at it: it failed or could not be judged, and is more than a note."""
        return self.status in ("FAIL", "UNKNOWN") and self.severity != "note"


def compliance_status(findings: Iterable[Finding], profile: Profile) -> ComplianceStatus:
    """What the gate does: become ready, become ready with a warning, or refuse."""
    findings = tuple(findings)
    if any(finding.blocks(profile) for finding in findings):
        return "refuse"
    return "warn" if any(finding.open for finding in findings) else "ready"
