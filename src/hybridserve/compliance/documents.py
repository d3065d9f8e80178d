"""Documents of a running service: findings for /compliance, licenses for /licenses, and lines for a response header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from hybridserve.catalog.licenses import License
from hybridserve.compliance.findings import Finding, Profile, compliance_status, result_counts
from hybridserve.compliance.rules.attribution import NOTICE_FILE
from hybridserve.compliance.rules.base import applies, clause, duties
from hybridserve.compliance.view import DeploymentView, Part

# License texts may contain characters that an HTTP header must not.
_HEADER_SAFE = str.maketrans({"©": "(c)", "\n": " ", "\r": " "})


def digest(tree: Any) -> str:
    """sha256 of plain data, the same for the same content on every machine."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def compliance_document(
    findings: Sequence[Finding], profile: Profile, today: date, evidence: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Body of ``GET /compliance``: status, findings, and digests by which replicas or days can be compared."""
    rows = [finding.as_dict() for finding in findings]
    return {
        "profile": profile,
        "verdict": compliance_status(findings, profile),
        "judged": today.isoformat(),
        "counts": result_counts(findings),
        "findings_sha256": digest(rows),
        "evidence_sha256": evidence["sha256"] if evidence else None,
        "findings": rows,
    }


def licenses_document(view: DeploymentView) -> dict[str, Any]:
    """Each model with its licenses, their addresses, and the lines that users must see."""
    policies = {duty.policy for part in view.parts for license in part.licenses for duty in license.obligations}
    return {
        "models": [_part(part) for part in view.parts],
        "lines": service_lines(view),
        "policies": sorted(policy for policy in policies if policy),
    }


def served_licenses(view: DeploymentView) -> dict[str, Any]:
    """Body of ``GET /licenses`` of a running service: `licenses_document`, the identity of the weights (null where they
    are not on this machine), NOTICE, and the texts that ship with it."""
    texts = view.bundle.texts if view.bundle else {}
    copies = {name: text for name, text in texts.items() if NOTICE_FILE.fullmatch(name) or name.startswith("licenses/")}
    notice = view.bundle.notice if view.bundle else None
    weights = view.files.weights
    return {
        **licenses_document(view),
        "weights": None if weights is None else [asdict(shard) for shard in weights],
        "notice": (notice or "").splitlines() or notice_lines(view),
        "texts": copies,
    }


def notice_lines(view: DeploymentView) -> list[str]:
    """Lines for NOTICE, also where the weights are not distributed: they do no harm, and images get copied."""
    licenses = [license for part in view.parts for license in part.licenses]
    lines = [duty.line for license in licenses for duty in license.terms("notice_line") if duty.line]
    return list(dict.fromkeys(lines))


def service_lines(view: DeploymentView) -> list[str]:
    """Lines that users of the service must see, such as ``Built with Llama``."""
    return list(dict.fromkeys(duty.line for _, _, duty in duties(view, "service_line") if duty.line))


def attribution_header(view: DeploymentView) -> str | None:
    """Value of the response header with the service lines; None where no license requires one."""
    lines = [line.translate(_HEADER_SAFE).encode("ascii", "ignore").decode() for line in service_lines(view)]
    return "; ".join(lines) or None


def _part(part: Part) -> dict[str, Any]:
    return {
        "role": part.role,
        "id": part.id,
        "repository": part.repository,
        "revision": part.revision,
        "licenses": [_license(license, part) for license in part.licenses],
    }


def _license(license: License, part: Part) -> dict[str, Any]:
    fields = license.model_dump(mode="json", include={"id", "title", "version", "spdx", "url", "licensor", "status",
                                                      "read"})  # fmt: skip
    return {**fields, "duties": [
        {"term": duty.term, "clause": clause(license, duty), **({"line": duty.line} if duty.line else {}),
         **({"policy": duty.policy} if duty.policy else {})}
        for duty in license.obligations if applies(duty, part)
    ]}  # fmt: skip
