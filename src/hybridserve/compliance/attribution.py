"""The attribution files of a deployment: NOTICE, references to licenses, the list of models, and both as data.

License texts are not ours to copy: LICENSES.md gives the address of each text, and the operator puts the copies that
rule `license.copy` requires into the folder `licenses/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from hybridserve.compliance.documents import licenses_document, notice_lines, service_lines
from hybridserve.compliance.rules.base import duties
from hybridserve.compliance.view import DeploymentView


def attribution_bundle(view: DeploymentView) -> Mapping[str, str]:
    """Text by file name. The same deployment gives the same bytes on every machine and day."""
    from hybridserve.compliance.sbom import models_sbom

    return {
        "NOTICE": _notice(view),
        "LICENSES.md": _licenses(view),
        "MODELS.md": _models(view),
        "models.cdx.json": models_sbom(view),
        "licenses.json": json.dumps(licenses_document(view), indent=2, ensure_ascii=False) + "\n",
    }


def missing_copies(view: DeploymentView) -> list[str]:
    """One sentence for each license whose text must be added to the bundle."""
    licenses = {license.id: license for _, license, _ in duties(view, "license_copy")}
    return [
        f"{license.title} ({license.version}): put the text of {license.url} into licenses/{license.id}.txt"
        for license in licenses.values()
    ]


def _notice(view: DeploymentView) -> str:
    # Each line is separate and unchanged, because licenses require exact words.
    rows = ["Models in this deployment and their notices.", ""]
    rows += [f"{part.repository or part.id}{f' at {part.revision}' if part.revision else ''}" for part in view.parts]
    for line in [*notice_lines(view), *service_lines(view)]:
        rows += ["", line]
    return "\n".join(rows) + "\n"


def _licenses(view: DeploymentView) -> str:
    rows = ["# Licenses", ""]
    for license in {license.id: license for part in view.parts for license in part.licenses}.values():
        rows += [
            f"## {license.title}",
            "",
            f"- version: {license.version}",
            f"- licensor: {license.licensor}",
            f"- identifier: {license.spdx}",
            f"- text: {license.url}",
            f"- reviewed: {license.read} ({license.status})",
            f"- copy: licenses/{license.id}.txt, where the weights are distributed",
            "",
        ]
    return "\n".join(rows)


def _models(view: DeploymentView) -> str:
    rows = ["# Models", "", "| model | role | repository | revision | licenses |", "| --- | --- | --- | --- | --- |"]
    for part in view.parts:
        names = ", ".join(license.spdx for license in part.licenses) or "unknown"
        cells = (part.id, part.role, part.repository or "-", part.revision or "-", names)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
