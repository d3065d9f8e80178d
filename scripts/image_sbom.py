#!/usr/bin/env python3
"""Write a CycloneDX bill of materials of this image: Python packages, and Debian's where dpkg is. Only stdlib."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any


def python_component(found: Distribution) -> dict[str, Any]:
    """One installed distribution."""
    name, version = found.metadata["Name"], found.version
    told: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pypi:{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
    }
    # The old field holds whole license texts in some packages; only one line is a name.
    fields = [found.metadata[key] for key in ("License-Expression", "License") if key in found.metadata]
    if fields and "\n" not in fields[0].strip():
        told["licenses"] = [{"license": {"name": fields[0].strip()}}]
    return told


def debian_components() -> list[dict[str, Any]]:
    """What dpkg has installed, named by its distribution (Debian's, or the Ubuntu of vLLM's own image)."""
    if shutil.which("dpkg-query") is None:
        return []
    distribution = platform.freedesktop_os_release()["ID"]
    form = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"
    lines = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in lines.splitlines() if line.startswith("installed\t")]
    return [
        {
            "type": "library",
            "bom-ref": f"deb:{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/{distribution}/{name}@{version}?arch={architecture}",
        }
        for _, name, version, architecture in rows
    ]


def main() -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python3 scripts/image_sbom.py sbom.cdx.json")
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    named = {found.metadata["Name"]: found for found in distributions() if found.metadata["Name"]}
    components = [python_component(found) for found in named.values()] + debian_components()
    components.sort(key=lambda one: str(one["bom-ref"]))
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{file}: {len(components)} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
