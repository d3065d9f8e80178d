"""The chart renders and lints with both Helm majors."""

from __future__ import annotations

from pathlib import Path

import pytest
from chart_helm import CHART, HELM_3, HELM_4, helm, only, template


@pytest.mark.parametrize("binary", [HELM_3, HELM_4], ids=["helm3", "helm4"])
def test_lint_strict(binary: Path) -> None:
    helm("lint", "--strict", str(CHART), binary=binary)


@pytest.mark.parametrize("binary", [HELM_3, HELM_4], ids=["helm3", "helm4"])
def test_template(binary: Path) -> None:
    objects = template(binary=binary)
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
