"""Generated files of the chart match their sources; `make chart-files` writes them."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import yaml
from chart_helm import CHART, ROOT

from hybridserve import __version__


def test_generated_files_are_up_to_date() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "scripts" / "chart_files.py", "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, f"run `make chart-files`:\n{ran.stdout}{ran.stderr}"


def test_versions_match_the_package() -> None:
    head = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert head["appVersion"] == __version__
    images = yaml.safe_load(head["annotations"]["artifacthub.io/images"])
    assert {one["image"].partition(":")[2] for one in images} == {
        f"{__version__}-{kind}" for kind in ("cpu", "gpu", "control")
    }
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert values["ray"]["version"] == importlib.metadata.version("ray")


def test_chart_metadata_for_artifact_hub() -> None:
    head = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert head["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    changes = yaml.safe_load(head["annotations"]["artifacthub.io/changes"])
    assert {one["kind"] for one in changes} <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    # A version that needs its user to act says what to do.
    assert f"to {head['version']}" in (CHART / "UPGRADE.md").read_text(encoding="utf-8")


def test_upgrade_page_has_every_renamed_name_that_values_alerts_and_queries_use() -> None:
    kinds = r"\| (?:setting|metric|alert|log event|rule id|canary id|key name|chart )"
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Upgrade table")[2]
    rows = [line for line in changes.splitlines() if re.match(kinds, line)]
    page = (CHART / "UPGRADE.md").read_text(encoding="utf-8").splitlines()
    assert rows
    assert [row for row in rows if row not in page] == []
