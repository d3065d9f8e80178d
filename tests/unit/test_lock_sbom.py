"""Every lock pins every package exactly, and its bill of materials names each once."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "lock_sbom.py"


@pytest.mark.parametrize("lock", sorted(path.stem for path in (ROOT / "requirements").glob("*.txt")))
def test_the_list_of_a_lock(lock: str, tmp_path: Path) -> None:
    source, file = ROOT / "requirements" / f"{lock}.txt", tmp_path / "sbom.json"
    subprocess.run([sys.executable, SCRIPT, source, file], check=True, timeout=30)
    document = json.loads(file.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    names = [one["name"] for one in document["components"]]
    assert len(names) == len(set(names)) == source.read_text().count("==")
    assert all(one["purl"].startswith(f"pkg:pypi/{one['name']}@") for one in document["components"])


@pytest.mark.parametrize("line", ["httpx>=0.28", "httpx", "git+https://example.org/x.git", "./here"])
def test_a_line_without_an_exact_version_is_refused(line: str) -> None:
    spec = importlib.util.spec_from_file_location("lock_sbom", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ValueError, match="pins no version"):
        module.pins(f"anyio==4.16.0\n{line}\n")
