"""Findings as SARIF 2.1.0, the format in which code review tools show results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridserve import __version__
from hybridserve.compliance.findings import Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Sequence[Finding], file: str | None) -> dict[str, Any]:
    """A SARIF log.

    Passed rules have kind ``pass``, so that the log shows what was checked; waived findings have a suppression.

    Args:
        file: the checked configuration file, relative to the repository.
    """
    rules = list({finding.rule: finding for finding in findings}.values())
    index = {finding.rule: position for position, finding in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "hybridserve check",
                        "version": __version__,
                        "rules": [_rule(finding) for finding in rules],
                    }
                },
                "results": [_result(finding, index[finding.rule], file) for finding in findings if finding.applies],
            }
        ],
    }


def _rule(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.rule,
        "shortDescription": {"text": finding.title},
        "help": {"text": f"{finding.remedy} (basis: {finding.basis})"},
        "defaultConfiguration": {"level": finding.severity},
        "properties": {"family": finding.family},
    }


def _result(finding: Finding, index: int, file: str | None) -> dict[str, Any]:
    subject = f"{finding.subject}: " if finding.subject else ""
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "message": {"text": f"{subject}{finding.evidence}"},
    }
    if finding.status == "PASS":
        # SARIF requires level none for every kind except fail.
        result |= {"kind": "pass", "level": "none"}
    elif finding.status == "UNKNOWN":
        result |= {"kind": "open", "level": "none"}
    else:
        result |= {"kind": "fail", "level": finding.severity}
    if finding.status == "WAIVED":
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": finding.waiver}]
    if file is not None:
        result["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": file}, "region": {"startLine": 1}}}]
    return result
