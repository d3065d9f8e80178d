"""A verb whose packages are not installed names the extra that has them, with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "loadtest": ("gevent", ["loadtest", "chat"]),
    "loadtest --list": ("gevent", ["loadtest", "--list"]),
    "dashboards": ("grafana_foundation_sdk", ["dashboards", "export", "--out", "boards"]),
    "charts": ("matplotlib", ["plan", "nemotron-nano-9b-v2", "--gpu", "l40s", "--chart", "x.png"]),
    "serve": ("psutil", ["serve"]),
}


@pytest.mark.parametrize("name", CASES)
def test_missing_package_names_its_extra(name: str, tmp_path: Path) -> None:
    module, argv = CASES[name]
    code = f"import sys; sys.modules[{module!r}] = None; from hybridserve.cli import main; main({argv!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: install\n")
    extra = name.split()[0]
    assert f"what: {module} is not installed: it belongs to the extra {extra}" in done.stderr
    assert f"[{extra}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 3


def test_missing_package_is_json_for_machines(tmp_path: Path) -> None:
    code = "import sys; sys.modules['psutil'] = None; from hybridserve.cli import main; main(['serve', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (2, "EnvironmentFault")


def test_top_runs_without_the_extra_for_serving(tmp_path: Path) -> None:
    words = ["top", "--once", "--url", "http://127.0.0.1:9"]
    code = f"import sys; sys.modules['psutil'] = None; from hybridserve.cli import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.startswith("error: http://127.0.0.1:9\n")) == (2, True)
