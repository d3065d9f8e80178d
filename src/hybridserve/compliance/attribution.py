"""The attribution bundle: NOTICE, references to licenses, a list of models, and the same as data for machines.

License texts are not ours to write out: LICENSES.md says where each stands, and the folder `licenses/` is where the
operator puts the copies that `license.copy` looks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from hybridserve import __version__
from hybridserve.compliance.documents import digest, licenses_document, notice_lines, service_lines
from hybridserve.compliance.rules.base import duties
from hybridserve.compliance.view import DeploymentView, Part


def attribution_bundle(view: DeploymentView) -> Mapping[str, str]:
    """Text by file name. The same deployment gives the same bytes, on any machine and day."""
    return {
        "NOTICE": _notice(view),
        "LICENSES.md": _licenses(view),
        "MODELS.md": _models(view),
        "models.cdx.json": json.dumps(_sbom(view), indent=2, ensure_ascii=False) + "\n",
        "licenses.json": json.dumps(licenses_document(view), indent=2, ensure_ascii=False) + "\n",
    }


def missing_copies(view: DeploymentView) -> list[str]:
    """Licenses whose text has to be put beside the bundle, as sentences."""
    owed = {license.id: license for _, license, _ in duties(view, "license_copy")}
    return [
        f"{one.title} ({one.version}): put the text of {one.url} into licenses/{one.id}.txt" for one in owed.values()
    ]


def _notice(view: DeploymentView) -> str:
    # Each line stands alone and unchanged: licenses ask for exact words.
    rows = ["Models in this deployment and the notices that come with them.", ""]
    rows += [f"{part.repository or part.id}{f' at {part.revision}' if part.revision else ''}" for part in view.parts]
    for line in [*notice_lines(view), *service_lines(view)]:
        rows += ["", line]
    return "\n".join(rows) + "\n"


def _licenses(view: DeploymentView) -> str:
    rows = ["# Licenses", ""]
    for one in {license.id: license for part in view.parts for license in part.licenses}.values():
        rows += [
            f"## {one.title}",
            "",
            f"- version: {one.version}",
            f"- licensor: {one.licensor}",
            f"- identifier: {one.spdx}",
            f"- text: {one.url}",
            f"- read: {one.read} ({one.status})",
            f"- copy: licenses/{one.id}.txt, where the weights are handed on",
            "",
        ]
    return "\n".join(rows)


def _models(view: DeploymentView) -> str:
    rows = ["# Models", "", "| model | role | repository | revision | licenses |", "| --- | --- | --- | --- | --- |"]
    for part in view.parts:
        names = ", ".join(one.spdx for one in part.licenses) or "unknown"
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
            {"license": {"id" if _listed(one.spdx) else "name": one.spdx, "url": one.url}} for one in part.licenses
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
