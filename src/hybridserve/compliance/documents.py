"""What the running service says about itself: findings for /compliance, notices for /licenses, lines for a header."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

from hybridserve.catalog.licenses import License
from hybridserve.compliance.findings import Finding, Profile, compliance_status
from hybridserve.compliance.rules.base import clause, duties
from hybridserve.compliance.view import DeploymentView, Part

# Words of a license may hold characters that a header must not.
_HEADER_SAFE = str.maketrans({"©": "(c)", "\n": " ", "\r": " "})


def digest(tree: Any) -> str:
    """sha256 of plain data, the same for the same content on every machine."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def compliance_document(
    findings: Sequence[Finding], profile: Profile, today: date, evidence_sha256: str | None = None
) -> dict[str, Any]:
    """Body of ``GET /compliance``: the verdict, the findings, and digests to compare two replicas or two days by."""
    rows = [finding.as_dict() for finding in findings]
    return {
        "profile": profile,
        "verdict": compliance_status(findings, profile),
        "judged": today.isoformat(),
        "counts": dict(sorted(Counter(finding.status for finding in findings).items())),
        "findings_sha256": digest(rows),
        "evidence_sha256": evidence_sha256,
        "findings": rows,
    }


def licenses_document(view: DeploymentView) -> dict[str, Any]:
    """Body of ``GET /licenses``: each model with its licenses, where their texts are, and the lines they ask for."""
    return {
        "models": [_part(part) for part in view.parts],
        "lines": service_lines(view),
        "policies": sorted({duty.policy for part in view.parts for one in part.licenses for duty in one.obligations
                            if duty.policy}),
    }  # fmt: skip


def notice_lines(view: DeploymentView) -> list[str]:
    """Lines for a NOTICE file, whether the weights are handed on or not: they cost nothing, and images are copied."""
    return list(
        dict.fromkeys(
            duty.line
            for part in view.parts
            for one in part.licenses
            for duty in one.terms("notice_line")
            if duty.line is not None
        )
    )


def service_lines(view: DeploymentView) -> list[str]:
    """Lines that users of the service must see, such as ``Built with Llama``."""
    return list(dict.fromkeys(duty.line for _, _, duty in duties(view, "service_line") if duty.line))


def attribution_header(view: DeploymentView) -> str | None:
    """Value of the response header that carries the service lines; None where no license asks for one."""
    lines = [line.translate(_HEADER_SAFE).encode("ascii", "ignore").decode() for line in service_lines(view)]
    return "; ".join(lines) or None


def owed(part: Part, one: License) -> list[dict[str, Any]]:
    """The duties of a license that are triggered for a part, as plain data."""
    family = part.entry.family if part.entry else None
    return [
        {"term": duty.term, "clause": clause(one, duty), **({"line": duty.line} if duty.line else {}),
         **({"policy": duty.policy} if duty.policy else {})}
        for duty in one.obligations
        if part.triggers & set(duty.when) and duty.only in (None, family)
    ]  # fmt: skip


def _part(part: Part) -> dict[str, Any]:
    return {
        "role": part.role,
        "id": part.id,
        "repository": part.repository,
        "revision": part.revision,
        "licenses": [
            {
                "id": one.id,
                "title": one.title,
                "version": one.version,
                "spdx": one.spdx,
                "url": one.url,
                "licensor": one.licensor,
                "status": one.status,
                "read": one.read.isoformat(),
                "duties": owed(part, one),
            }
            for one in part.licenses
        ],
    }
