"""Bills of materials: of each lock, and of the environment that the tests run in."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "sbom.py"
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
SBOM = runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda lock: lock.stem)
def test_every_package_of_a_lock_is_listed_once(lock: Path, tmp_path: Path) -> None:
    text = lock.read_text()
    SBOM["write"](SBOM["lock_components"](text), tmp_path / "sbom.json")
    document = (tmp_path / "sbom.json").read_text()
    assert VALIDATOR.validate_str(document) is None
    names = [component["name"] for component in json.loads(document)["components"]]
    assert len(names) == len(set(names)) == text.count("==")


@pytest.mark.parametrize("line", ["httpx>=0.28", "httpx", "git+https://example.org/x.git", "./here"])
def test_line_without_exact_version_is_rejected(line: str) -> None:
    with pytest.raises(ValueError, match="not a package with an exact version"):
        SBOM["lock_components"](f"anyio==4.16.0\n{line}\n")


def test_installed_packages_are_listed_with_their_licenses(tmp_path: Path) -> None:
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for file in files:
        subprocess.run([sys.executable, SCRIPT, file], check=True, capture_output=True, timeout=60)
    text = files[0].read_text()
    assert text == files[1].read_text()
    assert VALIDATOR.validate_str(text) is None
    components = {component["purl"].partition("@")[0]: component for component in json.loads(text)["components"]}
    assert components["pkg:pypi/pydantic"]["licenses"] == [{"license": {"id": "MIT"}}]
