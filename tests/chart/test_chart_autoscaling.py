"""Scaling without KubeRay: the controller, its Services, and the scaler that follows it, as one wiring."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from chart_cases import values_of
from chart_helm import Object, only, template
from test_chart_upgrade import merged

from hybridserve.autoscaling.spec import ScalingSpec
from hybridserve.cli.app import VERBS
from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.observability.metrics import all_metrics
from hybridserve.runtime.ingress import select_ingress
from hybridserve.runtime.pod_autoscaler import PodAutoscaler
from hybridserve.settings import Settings, load
from support.hpa import BEHAVIOR, TARGET

SCALED = ("standalone-keda", "standalone-hpa")
# Keys of a `metrics-api` trigger in KEDA 2.20 (pkg/scalers/metrics_api_scaler.go), authentication left out.
METRICS_API_KEYS = {
    "targetValue", "activationTargetValue", "url", "format", "valueLocation", "unsafeSsl",
    "aggregateFromKubeServiceEndpoints", "aggregationType", "timeout",
}  # fmt: skip


def settings_of(objects: list[Object], name: str) -> dict[str, Any]:
    tree = yaml.safe_load(only(objects, "ConfigMap", name)["data"]["hybridserve.yaml"])
    assert isinstance(tree, dict)
    return tree


def pod_of(objects: list[Object], name: str) -> dict[str, Any]:
    template_ = only(objects, "Deployment", name)["spec"]["template"]
    assert isinstance(template_, dict)
    return template_


@pytest.mark.parametrize("case", SCALED)
def test_one_scaler_follows_the_controller(case: str) -> None:
    objects = template(values_of(case))
    scalers = [one for one in objects if one["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    (scaler,) = scalers
    deployment = only(objects, "Deployment", "demo")
    assert "replicas" not in deployment["spec"]
    target = scaler["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "demo"}
    scaling = settings_of(objects, "demo-autoscaler")["scaling"]
    bounds = (scaling["min_replicas"], scaling["max_replicas"])
    spec = scaler["spec"]
    if scaler["kind"] == "ScaledObject":
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == bounds
        assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == BEHAVIOR
    else:
        assert (spec["minReplicas"], spec["maxReplicas"]) == bounds
        assert spec["behavior"] == BEHAVIOR
        (metric,) = spec["metrics"]
        assert metric["external"]["target"] == TARGET
        assert metric["external"]["metric"]["name"] in {info.name for info in all_metrics()}
        endpoints = only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
        (endpoint,) = [endpoint for endpoint in endpoints if endpoint["port"] == "autoscaler"]
        labels = {rule["targetLabel"]: rule["replacement"] for rule in endpoint["relabelings"]}
        assert metric["external"]["metric"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("case", SCALED)
@pytest.mark.parametrize("name", ["", "other"])
def test_all_metrics_of_a_release_have_one_label(case: str, name: str) -> None:
    """Alerts match the autoscaler's series with those of the engines, and with the recorded release, by this label."""
    objects = template(values_of(case), "--set", f"fullnameOverride={name},monitoring.monitor.enabled=true")
    endpoints = only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    rules = [rule for endpoint in endpoints for rule in endpoint["relabelings"] if rule["targetLabel"] == "release"]
    assert len(rules) == len(endpoints) > 1
    (recorded,) = only(objects, "PrometheusRule", f"{name or 'demo'}-release")["spec"]["groups"][0]["rules"]
    selected = [
        one["spec"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"]["release"]
        for one in objects
        if one["kind"] == "HorizontalPodAutoscaler"
    ]
    assert {*selected, *(rule["replacement"] for rule in rules)} == {recorded["labels"]["release"]} == {name or "demo"}


def test_keda_reads_what_the_controller_serves() -> None:
    objects = template(values_of("standalone-keda"))
    (trigger,) = only(objects, "ScaledObject")["spec"]["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("metrics-api", "AverageValue")
    asked = trigger["metadata"]
    assert set(asked) <= METRICS_API_KEYS
    assert float(asked["targetValue"]) == 1.0
    url = urlsplit(asked["url"])
    service = only(objects, "Service", "demo-autoscaler")
    assert url.netloc == f"demo-autoscaler.serving.svc:{service['spec']['ports'][0]['port']}"
    scaler = PodAutoscaler(resolved(objects), lambda: ["127.0.0.1:9"], 900.0)
    scaler.step()
    answer = httpx.get(f"http://127.0.0.1:{scaler.listen('127.0.0.1', 0)}{url.path}", trust_env=False)
    assert answer.json()[asked["valueLocation"]] == 1  # a number, as KEDA requires


def resolved(objects: list[Object]) -> ScalingSpec:
    """The scaling spec that the controller computes from its settings."""
    scaling = resolve_deployment(Settings.model_validate(settings_of(objects, "demo-autoscaler"))).scaling
    assert scaling is not None
    return scaling


@pytest.mark.parametrize("case", SCALED)
def test_controller_finds_and_may_reach_every_pod(case: str) -> None:
    objects = template(values_of(case))
    (container,) = pod_of(objects, "demo-autoscaler")["spec"]["containers"]
    verb, *words = container["args"]
    assert verb in VERBS
    options = dict(zip(words[::2], words[1::2], strict=True))
    pods = only(objects, "Service", options["--pods"])["spec"]
    assert (pods["clusterIP"], pods["publishNotReadyAddresses"]) == ("None", True)
    port = settings_of(objects, "demo-settings")["telemetry"]["metrics_port"]
    assert port == settings_of(objects, "demo-autoscaler")["telemetry"]["metrics_port"] == pods["ports"][0]["port"]
    (engine,) = pod_of(objects, "demo")["spec"]["containers"]
    assert [entry["containerPort"] for entry in engine["ports"] if entry["name"] == pods["ports"][0]["targetPort"]] == [
        port
    ]
    autoscaler = {"hybridserve.io/release": "demo", "app.kubernetes.io/component": "autoscaler"}
    rules = only(objects, "NetworkPolicy", "demo-engine")["spec"]["ingress"]
    open_to = [rule for rule in rules if {"podSelector": {"matchLabels": autoscaler}} in rule["from"]]
    assert [entry["port"] for rule in open_to for entry in rule["ports"]] == [port]
    egress = only(objects, "NetworkPolicy", "demo-autoscaler")["spec"]["egress"]
    assert [entry["port"] for entry in egress[-1]["ports"]] == [port]
    assert pod_of(objects, "demo-autoscaler")["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", SCALED)
def test_pods_start_with_their_settings(case: str, tmp_path: Path) -> None:
    """One engine without Ray in each pod; `serve` refuses this path with more than one replica."""
    file = tmp_path / "hybridserve.yaml"
    file.write_text(only(template(values_of(case)), "ConfigMap", "demo-settings")["data"]["hybridserve.yaml"])
    settings = load(file, environ={}).settings
    assert select_ingress(settings) == "single"


@pytest.mark.parametrize("case", SCALED)
def test_changed_bounds_restart_no_pod(case: str) -> None:
    values = values_of(case)
    more = merged(values, {"settings": {"scaling": {"max_replicas": 9}}})
    before, after = template(values), template(more)
    assert pod_of(before, "demo") == pod_of(after, "demo")
    assert pod_of(before, "demo-autoscaler") != pod_of(after, "demo-autoscaler")
    assert settings_of(after, "demo-autoscaler")["scaling"]["max_replicas"] == 9


def test_without_a_scaler_nothing_of_it_is_rendered() -> None:
    names = {one["metadata"]["name"] for one in template({})}
    assert not {name for name in names if name.endswith(("-autoscaler", "-pods"))}
    assert only(template({}), "Deployment")["spec"]["replicas"] == 1
