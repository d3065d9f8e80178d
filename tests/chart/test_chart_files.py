"""What the chart holds of things that stand elsewhere is what stands there: `make chart-files` writes it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import yaml
from chart_helm import CHART, ROOT

from hybridserve import __version__


def test_made_files_are_up_to_date() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chart_files.py", "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, f"run `make chart-files`:\n{ran.stdout}{ran.stderr}"


def test_versions_are_those_of_what_is_in_the_image() -> None:
    head = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert head["appVersion"] == __version__
    images = yaml.safe_load(head["annotations"]["artifacthub.io/images"])
    assert {one["image"].partition(":")[2] for one in images} == {
        f"{__version__}-{kind}" for kind in ("cpu", "gpu", "control")
    }
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert values["ray"]["version"] == importlib.metadata.version("ray")


def test_the_head_of_the_chart_says_what_a_catalogue_asks_for() -> None:
    head = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert head["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    changes = yaml.safe_load(head["annotations"]["artifacthub.io/changes"])
    assert {one["kind"] for one in changes} <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    # A version that needs its user to act says what to do.
    assert f"to {head['version']}" in (CHART / "UPGRADE.md").read_text(encoding="utf-8")
