#!/usr/bin/env python3
"""Write a CycloneDX bill of materials: of a lock (`make sbom`), or of the image in which this runs.

A lock lists every package that is installed from it. An image also has packages of its distribution, where dpkg is
installed.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement


def lock_components(text: str) -> list[Component]:
    """One component per line of a lock.

    Raises:
        ValueError: a line does not pin an exact version.
    """
    components = []
    for raw in text.splitlines():
        line = raw.split(" #")[0].rstrip(" \\").strip()
        if not line or line.startswith(("#", "--")):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            raise ValueError(f"{line!r} is not a package with an exact version") from None
        pins = [pin.version for pin in requirement.specifier if pin.operator == "=="]
        if len(pins) != 1 or len(requirement.specifier) != 1:
            raise ValueError(f"{line!r} is not a package with an exact version")
        components.append(_component(PackageURL("pypi", name=requirement.name, version=pins[0])))
    return components


def python_component(distribution: Distribution) -> Component:
    """One installed distribution. Its license is an SPDX id, an SPDX expression or a name."""
    metadata = distribution.metadata
    component = _component(PackageURL("pypi", name=metadata["Name"], version=distribution.version))
    # The old field contains the whole license text in some packages; a name is a single line.
    names = [metadata[key].strip() for key in ("License-Expression", "License") if key in metadata]
    if names and names[0] and "\n" not in names[0]:
        component.licenses.add(LicenseFactory().make_from_string(names[0]))
    return component


def debian_components() -> list[Component]:
    """The packages that dpkg has installed, of Debian or of Ubuntu (vLLM's own image)."""
    if shutil.which("dpkg-query") is None:
        return []
    distribution = platform.freedesktop_os_release()["ID"]
    form = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"
    lines = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in lines.splitlines() if line.startswith("installed\t")]
    return [
        _component(PackageURL("deb", distribution, name, version, {"arch": architecture}))
        for _, name, version, architecture in rows
    ]


def write(components: Iterable[Component], file: Path) -> None:
    """Write CycloneDX 1.6 without a time stamp: the same components give the same bytes."""
    unique = {str(component.purl): component for component in components}
    serial_number = uuid5(NAMESPACE_URL, "\n".join(sorted(unique)))
    bom = Bom(serial_number=serial_number, components=unique.values())
    bom.metadata.timestamp = None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")
    print(f"{file}: {len(unique)} components")


def _component(purl: PackageURL) -> Component:
    return Component(type=ComponentType.LIBRARY, name=purl.name, version=purl.version, bom_ref=str(purl), purl=purl)


def main() -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="file to write")
    parser.add_argument("--lock", type=Path, help="requirements file; without it the running image is listed")
    args = parser.parse_args()
    if args.lock is not None:
        write(lock_components(args.lock.read_text(encoding="utf-8")), args.file)
    else:
        named = [distribution for distribution in distributions() if distribution.metadata["Name"]]
        write([*map(python_component, named), *debian_components()], args.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
