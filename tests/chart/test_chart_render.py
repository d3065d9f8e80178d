"""Every values file, both majors of Helm, three versions of Kubernetes: what comes out is what an API server takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from chart_cases import CASES, values_of
from chart_helm import CHART, HELM_3, HELM_4, Object, helm, template
from crd_schema import errors, validators
from pod_security import pods, violations

HELMS = pytest.mark.parametrize("binary", [HELM_3, HELM_4], ids=["helm3", "helm4"])
KUBERNETES = ("1.30", "1.33", "1.36")


@HELMS
@pytest.mark.parametrize("case", CASES)
def test_lint_strict(case: str, binary: Path, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values_of(case)))
    helm("lint", "--strict", str(CHART), "--values", str(file), binary=binary)


@pytest.mark.parametrize("case", CASES)
def test_objects_are_valid(case: str) -> None:
    by_version: dict[str, list[Object]] = {}
    for version in KUBERNETES:
        objects = template(values_of(case), kube_version=f"{version}.0")
        assert objects == template(values_of(case), kube_version=f"{version}.0", binary=HELM_3)
        by_version[version] = objects
        for one in objects:
            if (one["apiVersion"], one["kind"]) not in validators():
                kubernetes_validate.validate(one, version, strict=True)
    # No object appears or vanishes by what the cluster says it can.
    assert by_version["1.30"] == by_version["1.33"] == by_version["1.36"]
    found = {one["kind"]: errors(one) for one in by_version["1.36"] if (one["apiVersion"], one["kind"]) in validators()}
    assert not any(found.values()), found


@pytest.mark.parametrize("case", CASES)
def test_pods_are_restricted(case: str) -> None:
    checked = 0
    for one in template(values_of(case)):
        for where, spec in pods(one):
            assert violations(spec) == [], where
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True, where
                assert container["securityContext"]["runAsUser"] >= 10001, where
                assert {"requests", "limits"} <= set(container["resources"]), where
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize("case", CASES)
def test_only_the_head_has_a_token(case: str) -> None:
    for one in template(values_of(case)):
        for where, spec in pods(one):
            assert spec["automountServiceAccountToken"] is where.endswith(" head"), where


def test_validation_finds_mistakes() -> None:
    """The checkers themselves: an object with a typo fails each of them."""
    objects = template(values_of("rayservice"))
    (ray,) = [one for one in objects if one["kind"] == "RayService"]
    ray["spec"]["serveconfigV2"] = ""
    assert errors(ray)
    ray["spec"]["rayClusterConfig"]["autoscalerOptions"].pop("securityContext")
    assert any(violations(spec) for _, spec in pods(ray))
    policy: dict[str, Any] = next(one for one in objects if one["kind"] == "NetworkPolicy")
    policy["spec"]["podSelectr"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(policy, "1.33", strict=True)
