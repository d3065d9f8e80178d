"""Pure rules over a plain view of a deployment: licence, guard, engine lint, exposure. Findings, not exceptions."""

from hybridserve.compliance.documents import compliance_document, licences_document, service_lines
from hybridserve.compliance.evaluate import evaluate
from hybridserve.compliance.findings import Finding, Verdict, verdict
from hybridserve.compliance.view import DeploymentView
from hybridserve.compliance.view_builder import deployment_view

__all__ = [
    "DeploymentView",
    "Finding",
    "Verdict",
    "compliance_document",
    "deployment_view",
    "evaluate",
    "licences_document",
    "service_lines",
    "verdict",
]
