"""Before anything is started: plan, judge, and hand over what the replica answers with."""

from __future__ import annotations

from datetime import date

from hybridserve.compliance import compliance_document, compliance_status, evaluate, licenses_document
from hybridserve.compliance.documents import attribution_header
from hybridserve.compliance.evidence import evidence_sha256
from hybridserve.errors import HybridServeError
from hybridserve.gateway.config import GatewayConfig
from hybridserve.runtime.view import build_view
from hybridserve.settings import Settings

ATTRIBUTION_HEADER = "x-model-attribution"


class ComplianceError(HybridServeError):
    """The checks of this profile failed, and it refuses to become ready."""

    exit_code = 1


def enforce_compliance(settings: Settings, today: date) -> GatewayConfig:
    """Judge the deployment under its own profile.

    Raises:
        ComplianceError: the production profile has a failed or unknown finding.
        CatalogError, ConfigError: the settings cannot be planned or judged, or a file they name cannot be read.
    """
    view = build_view(settings)
    findings = evaluate(view, today)
    profile = settings.server.profile
    if compliance_status(findings, profile) == "refuse":
        failed = [finding for finding in findings if finding.blocks(profile)]
        told = "; ".join(f"{finding.rule}: {finding.evidence}" for finding in failed)
        raise ComplianceError(
            f"server.profile {profile}",
            f"{len(failed)} checks failed: {told}",
            "hybridserve check shows each with its remedy",
        )
    header = attribution_header(view)
    return GatewayConfig(
        settings,
        documents={
            "/compliance": compliance_document(findings, profile, today, evidence_sha256(settings.guard.evidence_file)),
            "/licenses": licenses_document(view),
        },
        headers={ATTRIBUTION_HEADER: header} if header else {},
    )
