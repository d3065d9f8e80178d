"""The guard that the chart runs: its wiring with settings, policy and check, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from chart_cases import values_of
from chart_helm import CHART, HelmError, Object, helm, only, template
from test_chart_negatives import check_exit_code, settings_checked_by_the_hook
from test_chart_upgrade import merged

CASE = "standalone-guard"
RAY: dict[str, Any] = {
    "mode": "rayservice",
    "replicaCount": 1,
    "weights": {"cache": {"persistent": True, "accessModes": ["ReadWriteMany"]}},
}
LICENSE = "nvidia-open-model-2025-10-24"
NO_GPU = {"nvidia.com/gpu": None}


def settings_of(objects: list[Object]) -> dict[str, Any]:
    tree = yaml.safe_load(only(objects, "ConfigMap", "demo-check")["data"]["hybridserve.yaml"])
    assert isinstance(tree, dict)
    return tree


def guard_pod(objects: list[Object]) -> dict[str, Any]:
    spec = only(objects, "Deployment", "demo-guard")["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("change", [{}, RAY], ids=["standalone", "rayservice"])
def test_guard_serves_what_the_settings_name(change: dict[str, Any]) -> None:
    objects = template(merged(values_of(CASE), change))
    guard = settings_of(objects)["guard"]
    (container,) = guard_pod(objects)["containers"]
    model, *words = container["args"]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    assert model == guard["model"]
    assert options["--revision"] == guard["revision"]
    assert options["--served-model-name"] == guard["served_name"] == "guard"
    assert int(options["--max-model-len"]) == guard["max_model_len"]
    assert guard["weights"] == "pulled"
    (download,) = guard_pod(objects)["initContainers"]
    environment = {variable["name"]: variable.get("value") for variable in download["env"]}
    assert (environment["REPOSITORY"], environment["REVISION"]) == (guard["model"], guard["revision"])
    url = urlsplit(guard["url"])
    service = only(objects, "Service", "demo-guard")["spec"]
    assert url.netloc == f"demo-guard.serving.svc:{service['ports'][0]['port']}"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports[service["ports"][0]["targetPort"]] == int(options["--port"])


@pytest.mark.parametrize("change", [{}, RAY], ids=["standalone", "rayservice"])
def test_only_engines_reach_the_guard(change: dict[str, Any]) -> None:
    objects = template(merged(values_of(CASE), change))
    policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    (rule,) = policies["demo-guard"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchExpressions"][0]["values"] == ["engine", "head", "worker"]
    guard = {"hybridserve.io/release": "demo", "app.kubernetes.io/component": "guard"}
    senders = {
        name
        for name, spec in policies.items()
        for rule in spec.get("egress", [])
        if {"podSelector": {"matchLabels": guard}} in rule.get("to", [])
    }
    assert senders == ({"demo-engine", "demo-head"} if change else {"demo-engine"})


def test_more_gpus_are_used_by_tensor_parallelism() -> None:
    gpus = {"requests": {"nvidia.com/gpu": 2}, "limits": {"nvidia.com/gpu": 2}}
    objects = template(merged(values_of(CASE), {"guard": {"deploy": {"resources": gpus}}}))
    assert "--tensor-parallel-size=2" in guard_pod(objects)["containers"][0]["args"]


def test_claim_replaces_the_pods_own_disk() -> None:
    deploy = {"existingClaim": "guard-weights", "extraArgs": ["--gpu-memory-utilization=0.5"], "replicas": 1}
    objects = template(merged(values_of(CASE), {"guard": {"deploy": deploy}}))
    (volume,) = [volume for volume in guard_pod(objects)["volumes"] if volume["name"] == "weights"]
    assert volume["persistentVolumeClaim"] == {"claimName": "guard-weights"}
    assert guard_pod(objects)["containers"][0]["args"][-1] == "--gpu-memory-utilization=0.5"
    assert not [one for one in objects if one["kind"] == "PodDisruptionBudget" and "guard" in one["metadata"]["name"]]


@pytest.mark.parametrize(("replicas", "warned"), [(1, True), (2, False)])
def test_notes_warn_about_a_single_guard_pod(replicas: int, warned: bool) -> None:
    values = merged(values_of(CASE), {"guard": {"deploy": {"replicas": replicas}}})
    words = ("install", "demo", str(CHART), "--dry-run=client", "--namespace", "serving", "--values", "-")
    assert ("guard.deploy.replicas: with one" in helm(*words, stdin=yaml.safe_dump(values))) is warned


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"settings": {"guard": {"url": "http://guard.guards.svc:8080/v1"}}}, "settings.guard.url: guard.deploy.enabled"),
    ({"settings": {"guard": {"revision": None}}}, "settings.guard.revision: guard.deploy.enabled downloads"),
    ({"settings": {"guard": {"revision": "main"}}}, "/settings/guard/revision"),
    ({"settings": {"guard": {"model": "qwen3guard-gen-4b"}}}, "settings.guard.model: qwen3guard-gen-4b"),
    ({"settings": {"guard": {"format": "llama_guard"}}}, "settings.guard.format: llama_guard"),
    ({"settings": {"guard": {"kind": "rules"}}}, "guard.deploy.enabled: the guard of kind rules"),
    ({"settings": {"guard": {"kind": "none"}}}, "settings.guard.kind: none"),
    (
        {"settings": {"license": {"accepted": [{"license": LICENSE, "by": "A", "accepted": "2026-11-20"}]}}},
        "settings.license.accepted: nobody accepted apache-2.0, the license of Qwen/Qwen3Guard-Gen-4B",
    ),
    (
        {
            "settings": {
                "guard": {"model": "nvidia/Llama-3.1-Nemotron-Safety-Guard-8B-v3", "format": "nemotron_safety_guard"}
            }
        },
        "settings.license.accepted: nobody accepted llama-3.1",
    ),
    ({"networkPolicy": {"guard": [{"podSelector": {}}]}}, "networkPolicy.guard: the chart opens the guard"),
    (
        {"guard": {"deploy": {"resources": {"requests": NO_GPU, "limits": NO_GPU}}}},
        "guard.deploy.resources: no GPU in the limits",
    ),
    ({"guard": {"deploy": {"size": "60Gi"}}}, "guard.deploy.resources: ephemeral-storage 40Gi does not hold"),
    ({"guard": {"deploy": {"extraArgs": ["--host=1.2.3.4"]}}}, "guard.deploy.extraArgs: --host=1.2.3.4 changes"),
    ({"guard": {"deploy": {"extraArgs": ["--trust-remote-code"]}}}, "guard.deploy.extraArgs: --trust-remote-code"),
    ({"guard": {"deploy": {"replicas": 0}}}, "/guard/deploy/replicas"),
    ({"guard": {"deploy": {"url": "http://guard"}}}, "'url'"),
]


@pytest.mark.parametrize(("change", "line"), REFUSED, ids=[line[:60] for _, line in REFUSED])
def test_contradictions_are_refused(change: dict[str, Any], line: str) -> None:
    with pytest.raises(HelmError) as refused:
        template(merged(values_of(CASE), change))
    assert line in str(refused.value)


def test_guard_that_exists_needs_no_deployment() -> None:
    """The other way: settings.guard.url, with the same identity and acceptance."""
    existing = {"guard": {"url": "http://guard.guards.svc:8080/v1"}}
    change = {
        "guard": {"deploy": {"enabled": False}},
        "settings": existing,
        "networkPolicy": {"guard": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "guards"}}}]},
    }
    objects = template(merged(values_of(CASE), change))
    assert not [one for one in objects if one["metadata"]["name"].endswith("-guard")]
    assert settings_of(objects)["guard"]["url"] == existing["guard"]["url"]


def test_check_refuses_an_unaccepted_guard_that_the_chart_does_not_know(tmp_path: Path) -> None:
    """A guard without an entry in the catalog passes the templates; the check of the profile refuses it."""
    change = {"settings": {"guard": {"model": "example/some-guard", "format": "llama_guard"}}}
    assert check_exit_code(settings_checked_by_the_hook(merged(values_of(CASE), change)), tmp_path) == 1
