"""Before anything is started: plan, judge, and hand over what the replica answers with."""

from __future__ import annotations

from datetime import date

from hybridserve.compliance import compliance_document, evaluate, licences_document, verdict
from hybridserve.compliance.documents import attribution_header
from hybridserve.compliance.view_builder import evidence_sha256
from hybridserve.errors import HybridServeError
from hybridserve.gateway.config import Handover
from hybridserve.runtime.view import view_of
from hybridserve.settings import Settings

ATTRIBUTION_HEADER = "x-model-attribution"


class GateClosed(HybridServeError):
    """The checks of this profile failed, and it refuses to become ready."""

    exit_code = 1


def admit(settings: Settings, today: date) -> Handover:
    """Judge the deployment under its own profile.

    Raises:
        GateClosed: the production profile has a failed or unknown finding.
        CatalogError, ConfigError: the settings cannot be planned or judged, or a file they name cannot be read.
    """
    view = view_of(settings)
    findings = evaluate(view, today)
    profile = settings.server.profile
    if verdict(findings, profile) == "refuse":
        failed = [finding for finding in findings if finding.blocks(profile)]
        told = "; ".join(f"{finding.rule}: {finding.evidence}" for finding in failed)
        raise GateClosed(
            f"server.profile {profile}",
            f"{len(failed)} checks failed: {told}",
            "hybridserve check shows each with its remedy",
        )
    header = attribution_header(view)
    return Handover(
        settings,
        documents={
            "/compliance": compliance_document(findings, profile, today, evidence_sha256(settings.guard.evidence_file)),
            "/licenses": licences_document(view),
        },
        headers={ATTRIBUTION_HEADER: header} if header else {},
    )
