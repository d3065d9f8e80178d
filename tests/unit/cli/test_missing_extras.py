"""A verb whose packages are not installed names the extra that has them, with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridserve.errors import install_extra, install_lock

ROOT = Path(__file__).parents[3]
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
    assert (f"[{extra}]" if extra != "serve" else "cpu") in done.stderr.splitlines()[2]
    assert len(done.stderr.strip().splitlines()) == 3


@pytest.mark.parametrize(("prefix", "command"), [(ROOT / ".venv", "make install LOCK=cpu"), (Path("/env"), "-m pip")])
def test_the_fix_changes_the_environment_that_runs(prefix: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make install` changes .venv of the repository and nothing else."""
    monkeypatch.setattr(sys, "prefix", str(prefix))
    assert command in install_lock("cpu")
    assert ("requirements/cpu.txt" in install_lock("cpu")) == (prefix == Path("/env"))
    assert install_extra("charts").startswith(".venv/bin/pip" if prefix != Path("/env") else sys.executable)


def test_missing_package_is_json_for_machines(tmp_path: Path) -> None:
    code = "import sys; sys.modules['psutil'] = None; from hybridserve.cli import main; main(['serve', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (2, "EnvironmentFault")


def test_top_runs_without_the_extra_for_serving(tmp_path: Path) -> None:
    words = ["top", "--once", "--url", "http://127.0.0.1:9"]
    code = f"import sys; sys.modules['psutil'] = None; from hybridserve.cli import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.startswith("error: http://127.0.0.1:9\n")) == (2, True)
