"""Every documented change of UPGRADE.md, and what KubeRay and Ray Serve make of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from chart_cases import values_of
from chart_helm import CHART, only, template
from kuberay_decision import Effect, decide, problems
from test_chart_upgrade import merged

from hybridserve.settings.live import LIVE_SETTINGS

NEW, IN_PLACE, REPLICAS, IGNORED = Effect.NEW_CLUSTER, Effect.IN_PLACE, Effect.REPLICAS, Effect.IGNORED
BEFORE = values_of("rayservice")
GROUPS = BEFORE["ray"]["workerGroups"]
LARGER = [{**GROUPS[0], "maxReplicas": 8}, GROUPS[1]]
ONE_POD = {"settings": {"scaling": {"min_replicas": 1, "max_replicas": 1}}}  # a pod of mode standalone has one GPU
THIRD = {"name": "third", "replicas": 0, "minReplicas": 0, "maxReplicas": 1}


def one_setting(path: str, value: Any) -> dict[str, Any]:
    section, name = path.split(".")
    return {"settings": {section: {name: value}}}


CHANGES: list[tuple[dict[str, Any], set[Effect]]] = [
    ({}, set()),
    # KubeRay updates the labels of its own Service only when it switches clusters.
    ({"commonLabels": {"team": "a"}}, {IGNORED}),
    ({"commonAnnotations": {"a": "b"}}, {IGNORED}),
    ({"monitoring": {"monitor": {"enabled": False}}}, set()),
    ({"networkPolicy": {"enabled": False}}, set()),
    ({"service": {"port": 80, "annotations": {"a": "b"}}}, set()),
    ({"podDisruptionBudget": {"minAvailable": 1}}, set()),
    ({"check": {"enabled": False}}, set()),
    ({"notice": {"files": {"NOTICE": "other text"}}}, set()),
    (one_setting("scaling.min_replicas", 2), {IN_PLACE}),
    (one_setting("scaling.max_replicas", 6), {IN_PLACE}),
    (one_setting("telemetry.log_level", "debug"), {IN_PLACE}),
    (one_setting("access.requests_per_minute", 10), {IN_PLACE}),
    (one_setting("access.tokens_per_minute", 1000), {IN_PLACE}),
    (one_setting("access.max_streams", 3), {IN_PLACE}),
    (one_setting("access.max_in_flight", 9), {IN_PLACE}),
    (one_setting("access.max_body_bytes", 65536), {IN_PLACE}),
    (one_setting("access.max_prompt_tokens", 1000), {IN_PLACE}),
    (one_setting("access.max_output_tokens", 100), {IN_PLACE}),
    (one_setting("access.long_output", "refuse"), {IN_PLACE}),
    (one_setting("access.max_choices", 1), {IN_PLACE}),
    (one_setting("reasoning.switch", "system"), {IN_PLACE}),
    (one_setting("reasoning.default", "off"), {IN_PLACE}),
    (one_setting("reasoning.efforts", {"low": 10}), {IN_PLACE}),
    (one_setting("engine.max_num_seqs", 16), {REPLICAS}),
    (one_setting("verify.at_start", True), {REPLICAS}),
    (one_setting("scaling.ttft_s", 4), {REPLICAS}),
    (one_setting("access.open_routes", ["POST /tokenize"]), {REPLICAS}),
    ({"ray": {"maxSurgePercent": 0}}, {IN_PLACE}),
    ({"ray": {"startAttempts": 5}}, {REPLICAS}),
    ({"image": {"tag": "0.2.0-gpu"}}, {NEW}),
    ({"resources": {"limits": {"memory": "65Gi"}}}, {NEW}),
    ({"podLabels": {"a": "b"}}, {NEW}),
    ({"podAnnotations": {"a": "b"}}, {NEW}),
    ({"extraEnv": [{"name": "A", "value": "b"}]}, {NEW}),
    ({"extraVolumes": [{"name": "a", "emptyDir": {}}]}, {NEW}),
    ({"drainSeconds": 61}, {NEW}),
    ({"shmSize": "3Gi"}, {NEW}),
    ({"auth": {"existingSecret": "other"}}, {NEW}),
    ({"ray": {"head": {"resources": {"limits": {"memory": "7Gi"}}}}}, {NEW}),
    ({"tolerations": [{"operator": "Exists"}]}, {IGNORED}),
    ({"ray": {"workerGroups": LARGER}}, {IGNORED}),
    ({"ray": {"workerGroups": [*LARGER, THIRD]}}, {Effect.CLUSTER_UPDATE}),
    ({"ray": {"workerGroups": [*GROUPS, THIRD]}}, {Effect.CLUSTER_UPDATE}),
    ({"ray": {"workerGroups": [THIRD, *GROUPS]}}, {NEW}),
    ({"ray": {"workerGroups": [{**GROUPS[0], "name": "other"}, GROUPS[1]]}}, {NEW}),
    ({"ray": {"workerGroups": GROUPS[:1]}, "settings": {"scaling": {"max_replicas": 4}}}, {NEW}),
    ({"ray": {"upgradeStrategy": "None"}}, set()),
    ({"ray": {"upgradeStrategy": "None"}, "image": {"tag": "0.2.0-gpu"}}, {IGNORED}),
    ({"ray": {"initializingTimeoutSeconds": 600}}, set()),
    ({"mode": "standalone", **ONE_POD}, {Effect.DELETED}),
]


@pytest.mark.parametrize(("change", "effects"), CHANGES, ids=[str(change)[:70] for change, _ in CHANGES])
def test_documented_change(change: dict[str, Any], effects: set[Effect]) -> None:
    before = only(template(BEFORE), "RayService")
    after = [one for one in template(merged(BEFORE, change)) if one["kind"] == "RayService"]
    assert problems(before) == []
    assert decide(before, after[0] if after else None) == effects


def test_changed_mode_moves_the_service_before_the_new_pods_are_ready() -> None:
    """The Service keeps its name and ports; no pod is behind it until the other mode's pods are ready."""
    objects = {mode: template(merged(BEFORE, {"mode": mode, **ONE_POD})) for mode in ("rayservice", "standalone")}
    ray, standalone = (only(objects[mode], "Service", "demo")["spec"] for mode in objects)
    assert ray["selector"] != standalone["selector"]
    assert {port["name"]: port["port"] for port in ray["ports"]} == {"http": 8000}
    assert {port["name"]: port["port"] for port in standalone["ports"]} == {"http": 8000}
    assert [one["kind"] for one in objects["standalone"] if one["kind"] in ("Deployment", "RayService")] == [
        "Deployment"
    ]


STANDALONE = values_of("defaults")


@pytest.mark.parametrize(
    ("change", "new_pods"),
    [
        *((change, True) for change, _ in CHANGES if change.get("settings", {}).keys() & LIVE_SETTINGS.keys()),
        (one_setting("engine.max_num_seqs", 16), True),
        ({"podLabels": {"a": "b"}}, True),
        ({"commonLabels": {"team": "a"}}, False),
        ({"service": {"port": 80}}, False),
        ({"podDisruptionBudget": {"minAvailable": 1}}, False),
        ({"replicaCount": 3}, False),
    ],
    ids=str,
)
def test_change_in_mode_standalone(change: dict[str, Any], new_pods: bool) -> None:
    """A Deployment replaces its pods exactly when their template changes; settings that are live elsewhere included."""
    before, after = (only(template(values), "Deployment") for values in (STANDALONE, merged(STANDALONE, change)))
    assert (before["spec"]["template"] != after["spec"]["template"]) == new_pods
    assert after["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_new_cluster_on_resize_applies_more_gpus() -> None:
    values = merged(BEFORE, {"ray": {"newClusterOnResize": True}})
    before = only(template(values), "RayService")
    for change in ({"ray": {"workerGroups": LARGER}}, {"tolerations": [{"operator": "Exists"}]}):
        assert decide(before, only(template(merged(values, change)), "RayService")) == {NEW}


def test_every_live_setting_has_a_row_and_is_documented() -> None:
    rows = {
        f"{section}.{name}"
        for change, effects in CHANGES
        if effects == {IN_PLACE}
        for section, values in change.get("settings", {}).items()
        for name in values
    }
    live = {f"{section}.{name}" for section, names in LIVE_SETTINGS.items() for name in names}
    assert live <= rows
    text = (CHART / "UPGRADE.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text or f".{name}`" in text for names in LIVE_SETTINGS.values() for name in names)
    facts = yaml.safe_load((CHART / "files" / "facts.yaml").read_text(encoding="utf-8"))
    assert facts["liveSettings"] == {section: list(names) for section, names in LIVE_SETTINGS.items()}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metadata", "name"), "a" * 48),
        (("spec", "upgradeStrategy", "type"), "Rolling"),
        (("spec", "rayClusterConfig", "rayVersion"), "2.51.0"),
        (("spec", "rayClusterConfig", "upgradeStrategy"), {"type": "Recreate"}),
    ],
)
def test_refusals_of_the_operator_are_found(path: tuple[str, ...], value: Any) -> None:
    before = only(template(BEFORE), "RayService")
    after = copy.deepcopy(before)
    node = after
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    assert decide(before, after) == {Effect.REFUSED}
