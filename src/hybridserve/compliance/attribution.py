"""The attribution bundle: NOTICE, references to licences, a list of models, and the same as data for machines.

Licence texts are not ours to write out: LICENCES.md says where each stands, and the folder `licences/` is where the
operator puts the copies that `licence.copy` looks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from hybridserve import __version__
from hybridserve.compliance.documents import digest, licences_document, notice_lines, service_lines
from hybridserve.compliance.rules.base import duties
from hybridserve.compliance.view import DeploymentView, Part


def attribution_bundle(view: DeploymentView) -> Mapping[str, str]:
    """Text by file name. The same deployment gives the same bytes, on any machine and day."""
    return {
        "NOTICE": _notice(view),
        "LICENCES.md": _licences(view),
        "MODELS.md": _models(view),
        "models.cdx.json": json.dumps(_sbom(view), indent=2, ensure_ascii=False) + "\n",
        "licences.json": json.dumps(licences_document(view), indent=2, ensure_ascii=False) + "\n",
    }


def missing_copies(view: DeploymentView) -> list[str]:
    """Licences whose text has to be put beside the bundle, as sentences."""
    owed = {licence.id: licence for _, licence, _ in duties(view, "licence_copy")}
    return [
        f"{one.title} ({one.version}): put the text of {one.url} into licences/{one.id}.txt" for one in owed.values()
    ]


def _notice(view: DeploymentView) -> str:
    # Each line stands alone and unchanged: licences ask for exact words.
    rows = ["Models in this deployment and the notices that come with them.", ""]
    rows += [f"{part.repository or part.id}{f' at {part.revision}' if part.revision else ''}" for part in view.parts]
    for line in [*notice_lines(view), *service_lines(view)]:
        rows += ["", line]
    return "\n".join(rows) + "\n"


def _licences(view: DeploymentView) -> str:
    rows = ["# Licences", ""]
    for one in {licence.id: licence for part in view.parts for licence in part.licences}.values():
        rows += [
            f"## {one.title}",
            "",
            f"- version: {one.version}",
            f"- licensor: {one.licensor}",
            f"- identifier: {one.spdx}",
            f"- text: {one.url}",
            f"- read: {one.read} ({one.status})",
            f"- copy: licences/{one.id}.txt, where the weights are handed on",
            "",
        ]
    return "\n".join(rows)


def _models(view: DeploymentView) -> str:
    rows = ["# Models", "", "| model | role | repository | revision | licences |", "| --- | --- | --- | --- | --- |"]
    for part in view.parts:
        names = ", ".join(one.spdx for one in part.licences) or "unknown"
        cells = (part.id, part.role, part.repository or "-", part.revision or "-", names)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _sbom(view: DeploymentView) -> dict[str, object]:
    """CycloneDX 1.6 with one machine-learning-model component per model. No time stamp: the bytes must not change."""
    components = [_component(part) for part in view.parts]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "hybridserve", "version": __version__}]},
            "properties": [{"name": "hybridserve:components-sha256", "value": digest(components)}],
        },
        "components": components,
    }


def _component(part: Part) -> dict[str, object]:
    component: dict[str, object] = {
        "type": "machine-learning-model",
        "bom-ref": f"{part.role}:{part.id}",
        "name": part.id,
        "licenses": [
            {"license": {"id" if _listed(one.spdx) else "name": one.spdx, "url": one.url}} for one in part.licences
        ],
    }
    if part.revision:
        component["version"] = part.revision
    if part.repository:
        purl = f"pkg:huggingface/{part.repository}"
        component["purl"] = f"{purl}@{part.revision}" if part.revision else purl
    return component


def _listed(spdx: str) -> bool:
    # Only identifiers of the SPDX list may stand as `id`; all others are names.
    return not spdx.startswith("LicenseRef-")
