"""Pure rules over a plain view of a deployment: license, guard, engine lint, exposure. Findings, not exceptions."""

from hybridserve.compliance.documents import compliance_document, licenses_document, service_lines
from hybridserve.compliance.evaluate import evaluate
from hybridserve.compliance.findings import ComplianceStatus, Finding, compliance_status
from hybridserve.compliance.view import DeploymentView
from hybridserve.compliance.view_builder import deployment_view

__all__ = [
    "ComplianceStatus",
    "DeploymentView",
    "Finding",
    "compliance_document",
    "compliance_status",
    "deployment_view",
    "evaluate",
    "licenses_document",
    "service_lines",
]
