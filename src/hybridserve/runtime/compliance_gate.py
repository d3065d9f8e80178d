"""Does not start a deployment that fails its profile's compliance checks."""

from __future__ import annotations

from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.errors import HybridServeError


class ComplianceError(HybridServeError):
    """The checks of this profile failed, so the service must not become ready."""

    exit_code = 1


def enforce_compliance(spec: DeploymentSpec) -> None:
    """Check the findings of a resolved deployment.

    Raises:
        ComplianceError: its profile refuses a finding: production a failed or unknown one, staging a failed one.
    """
    if spec.refusals:
        raise ComplianceError(
            f"server.profile {spec.settings.server.profile}",
            f"{len(spec.refusals)} checks failed: {'; '.join(spec.refusals)}",
            "`hybridserve check` with the same settings (-c FILE) shows the remedy of each",
        )
