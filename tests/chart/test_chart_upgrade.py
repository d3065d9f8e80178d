"""Upgrade safety: what may change in place does, what is immutable never carries a value, names fit and never clash."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_cases import values_of
from chart_helm import CHART, Object, only, template
from pod_security import pods

LONGEST = "a" + "b" * 51 + "9"
# Kinds whose names must be DNS labels; others may be longer.
DNS_LABEL = {"Service", "RayService", "Pod", "Job", "Deployment"}


def muted_hash(rayservice: Object) -> str:
    """KubeRay's hash of a RayCluster spec: what changes it starts a new cluster.

    As `GenerateHashWithoutReplicasAndWorkersToDelete` of KubeRay 1.7: the number of workers, the workers to delete,
    tolerations, scheduling gates and the upgrade strategy are left out. Groups added at the end count as an update in
    place; that rule compares two specs, see `same_cluster`.
    """
    spec = copy.deepcopy(rayservice["spec"]["rayClusterConfig"])
    spec.pop("upgradeStrategy", None)
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        for name in ("replicas", "minReplicas", "maxReplicas", "scaleStrategy"):
            group.pop(name, None)
        for name in ("tolerations", "schedulingGates"):
            group["template"]["spec"].pop(name, None)
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def ray(values: dict[str, Any], chart: Path = CHART) -> Object:
    return only(template(values, chart=chart), "RayService")


@pytest.fixture(scope="module")
def before() -> dict[str, Any]:
    return values_of("rayservice")


@pytest.fixture(scope="module")
def other_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chart = tmp_path_factory.mktemp("chart") / "hybridserve"
    shutil.copytree(CHART, chart)
    head = yaml.safe_load((chart / "Chart.yaml").read_text())
    head["version"], head["appVersion"] = "9.9.9", "9.9.9"
    (chart / "Chart.yaml").write_text(yaml.safe_dump(head))
    return chart


def test_a_chart_version_starts_no_second_cluster(before: dict[str, Any], other_version: Path) -> None:
    old, new = ray(before), ray(before, other_version)
    assert old["metadata"]["labels"] != new["metadata"]["labels"]
    assert muted_hash(old) == muted_hash(new)


@pytest.mark.parametrize(
    "change",
    [
        {"commonLabels": {"team": "another"}},
        {"commonAnnotations": {"a": "b"}},
        {"settings": {"engine": {"max_num_seqs": 16}}},
        {"settings": {"scaling": {"min_replicas": 2}}},
        {"notice": {"files": {"NOTICE": "another text"}}},
        {"tolerations": [{"operator": "Exists"}]},
        {"auth": {"existingSecret": "api-keys"}},
        {"ray": {"upgradeStrategy": "None"}},
        {"monitoring": {"monitor": {"enabled": False}}},
        {"networkPolicy": {"enabled": False}},
        {"service": {"port": 80}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_outside_of_the_pods_starts_no_second_cluster(before: dict[str, Any], change: dict[str, Any]) -> None:
    after = merged(before, change)
    assert muted_hash(ray(before)) == muted_hash(ray(after))


def test_pod_changes_start_a_second_cluster(before: dict[str, Any]) -> None:
    """The hash is one that can differ."""
    for change in ({"image": {"tag": "0.2.0-gpu"}}, {"podLabels": {"a": "b"}}, {"shmSize": "3Gi"}):
        assert muted_hash(ray(before)) != muted_hash(ray(merged(before, change)))


def test_settings_of_the_engine_change_the_application_alone(before: dict[str, Any]) -> None:
    old, new = ray(before), ray(merged(before, {"settings": {"engine": {"max_num_seqs": 16}}}))
    assert old["spec"].pop("serveConfigV2") != new["spec"].pop("serveConfigV2")
    assert old == new


def test_a_new_group_at_the_end_leaves_the_others_alone(before: dict[str, Any]) -> None:
    after = copy.deepcopy(before)
    after["ray"]["workerGroups"].append({"name": "third", "replicas": 0, "minReplicas": 0, "maxReplicas": 1})
    old, new = ray(before), ray(after)
    groups = new["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert groups.pop()["groupName"] == "third"
    assert old == new


def test_immutable_fields_carry_no_value() -> None:
    plain = template({})
    changed = template(
        {
            "commonLabels": {"app.kubernetes.io/name": "mine", "app.kubernetes.io/instance": "mine", "team": "x"},
            "podLabels": {"app.kubernetes.io/instance": "mine", "app.kubernetes.io/component": "mine"},
            "nameOverride": "other",
            "fullnameOverride": "demo",
            "commonAnnotations": {"a": "b"},
        }
    )
    old, new = only(plain, "Deployment"), only(changed, "Deployment")
    assert old["metadata"]["name"] == new["metadata"]["name"] == "demo"
    assert old["spec"]["selector"] == new["spec"]["selector"]
    assert new["spec"]["selector"]["matchLabels"].items() <= new["spec"]["template"]["metadata"]["labels"].items()
    assert only(plain, "Service")["spec"]["selector"] == only(changed, "Service")["spec"]["selector"]


def test_label_changes_restart_no_pod(other_version: Path) -> None:
    old = only(template({"image": {"tag": "1"}}), "Deployment")["spec"]["template"]
    new = only(template({"image": {"tag": "1"}, "commonLabels": {"a": "b"}}, chart=other_version), "Deployment")
    assert old == new["spec"]["template"]


def test_settings_restart_pods() -> None:
    old = only(template({}), "Deployment")["spec"]["template"]
    new = only(template({"settings": {"engine": {"max_num_seqs": 4}}}), "Deployment")["spec"]["template"]
    assert old["metadata"]["annotations"] != new["metadata"]["annotations"]


@pytest.mark.parametrize("release", [LONGEST, "9-starts-with-a-digit", "with.a.dot", "a"])
@pytest.mark.parametrize("case", ["standalone-production", "rayservice"])
def test_names_fit(release: str, case: str) -> None:
    for one in template(values_of(case), release=release):
        if "labels" not in one["metadata"]:
            continue  # the user's own
        name, kind = one["metadata"]["name"], one["kind"]
        assert len(name) <= 63, name
        assert name[0].isalpha(), name
        assert "." not in name, name
        if kind == "RayService":
            assert len(name) <= 47
            assert len(one["spec"]["serveService"]["metadata"]["name"]) <= 63
        for value in one["metadata"]["labels"].values():
            assert len(value) <= 63


def test_shortened_names_do_not_clash() -> None:
    names = [{one["metadata"]["name"] for one in template({}, release=name)} for name in (LONGEST, LONGEST[:-1] + "8")]
    assert not names[0] & names[1]
    dotted = [{one["metadata"]["name"] for one in template({}, release=name)} for name in ("a.b", "a-b")]
    assert not dotted[0] & dotted[1]


@pytest.mark.parametrize("case", ["standalone-secrets", "rayservice"])
def test_two_releases_share_no_object_names(case: str) -> None:
    """Also when one is named as an object of the other."""

    def objects(release: str) -> set[tuple[str, str]]:
        return {(one["kind"], one["metadata"]["name"]) for one in template(values_of(case), release=release)}

    first = objects("demo")
    suffixes = {name.removeprefix("demo") for _, name in first}
    for suffix in suffixes - {""}:
        assert not first & objects(f"demo{suffix}"), suffix


@pytest.mark.parametrize("case", ["standalone-production", "rayservice"])
def test_one_target_for_each_port(case: str) -> None:
    """What is scraped twice is counted twice; a port that no pod has is a dead target."""
    objects = template(values_of(case))
    endpoints = [one["port"] for one in only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]]
    assert len(endpoints) == len(set(endpoints))
    assert not [one for one in objects if one["kind"] == "ServiceMonitor"]
    ports = {
        port["name"]
        for one in objects
        for _, spec in pods(one)
        for container in spec["containers"]
        for port in container.get("ports", [])
    }
    assert set(endpoints) <= ports
    assert "replica-0" in endpoints


def merged(values: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`helm upgrade` with a second values file."""
    made = copy.deepcopy(values)
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(made.get(name), dict):
            made[name] = merged(made[name], value)
        else:
            made[name] = value
    return made
