"""Findings as SARIF 2.1.0, which code review tools show beside the line they are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridserve import __version__
from hybridserve.compliance.findings import Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVEL = {"error": "error", "warning": "warning", "note": "note"}


def sarif(findings: Sequence[Finding], file: str | None) -> dict[str, Any]:
    """A SARIF log.

    Passed rules appear with kind ``pass``, so that a reader sees what was checked; waived ones carry a suppression.

    Args:
        file: the configuration the results are about, relative to the repository.
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
        "defaultConfiguration": {"level": _LEVEL[finding.severity]},
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
        # The standard wants level none beside every kind but fail.
        result |= {"kind": "pass", "level": "none"}
    elif finding.status == "UNKNOWN":
        result |= {"kind": "open", "level": "none"}
    else:
        result |= {"kind": "fail", "level": _LEVEL[finding.severity]}
    if finding.status == "WAIVED":
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": finding.waiver}]
    if file is not None:
        result["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": file}, "region": {"startLine": 1}}}]
    return result
