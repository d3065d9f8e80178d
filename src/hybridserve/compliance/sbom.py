"""The models of a deployment as a CycloneDX bill of materials.

A separate module, because importing the CycloneDX library takes longer than a whole `hybridserve check`.
"""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from hybridserve import __version__
from hybridserve.catalog.licenses import License
from hybridserve.compliance.documents import digest, licenses_document
from hybridserve.compliance.view import DeploymentView, Part


def models_sbom(view: DeploymentView) -> str:
    """CycloneDX 1.6 JSON with one machine-learning-model component per model, the same bytes for the same models."""
    tool = Component(type=ComponentType.APPLICATION, name="hybridserve", version=__version__)
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"hybridserve:{digest(licenses_document(view))}"),
        metadata=BomMetaData(tools=ToolRepository(components=[tool])),
        components=[_component(part) for part in view.parts],
    )
    bom.metadata.timestamp = None  # type: ignore[assignment]  # optional in the schema; it would change the bytes
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"


def _component(part: Part) -> Component:
    purl = None
    if part.repository:
        namespace, _, name = part.repository.rpartition("/")
        purl = PackageURL("huggingface", namespace or None, name, part.revision)
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"{part.role}:{part.id}",
        name=part.id,
        version=part.revision,
        purl=purl,
        licenses=_licenses(part.licenses),
        external_references=[
            ExternalReference(type=ExternalReferenceType.LICENSE, url=XsUri(license.url)) for license in part.licenses
        ],
    )


def _licenses(licenses: tuple[License, ...]) -> list[LicenseExpression]:
    """One SPDX expression: all licenses of a model apply together."""
    return [LicenseExpression(" AND ".join(license.spdx for license in licenses))] if licenses else []
