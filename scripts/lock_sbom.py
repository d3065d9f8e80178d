#!/usr/bin/env python3
"""Write a CycloneDX bill of materials of a lock: `make sbom`. Offline; only the standard library.

The lock holds every package that is installed, so this is what an image or an environment made from it contains. Images
carry their own, with Debian's packages (`image_sbom.py`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)")


def pins(text: str) -> list[tuple[str, str]]:
    """Name and version of every line of a lock.

    Raises:
        ValueError: a line that pins nothing exactly.
    """
    found = []
    for raw in text.splitlines():
        line = raw.split(" #")[0].strip()
        if not line or line.startswith(("#", "--")):
            continue
        match = _PIN.match(line)
        if match is None:
            raise ValueError(f"{line!r} pins no version")
        found.append((re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]))
    return found


def document(packages: list[tuple[str, str]]) -> dict[str, Any]:
    """CycloneDX 1.6."""
    components = [
        {"type": "library", "bom-ref": f"pypi:{name}@{version}", "name": name, "version": version,
         "purl": f"pkg:pypi/{name}@{version.replace('+', '%2B')}"}
        for name, version in sorted(packages)
    ]  # fmt: skip
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}


def main() -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lock", type=Path)
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    packages = pins(asked.lock.read_text(encoding="utf-8"))
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    asked.file.write_text(json.dumps(document(packages), indent=1) + "\n", encoding="utf-8")
    print(f"{asked.file}: {len(packages)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
