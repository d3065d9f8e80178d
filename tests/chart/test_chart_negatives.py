"""Invalid and dangerous values are refused when the chart is rendered; the shipped values pass the check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_cases import CASES, check_exit_code, values_of
from chart_helm import CHART, HelmError, helm, only, template
from test_chart_upgrade import merged

RAY = values_of("rayservice")
L40S = values_of("nemotron-nano-9b-v2-l40s")
DEFAULTS: dict[str, Any] = {}
NO_GPU: dict[str, Any] = {
    "mode": "rayservice",
    "settings": {"model": {"id": "nemotron-nano-9b-v2"}, "accelerator": {"name": "l40s"}},
    "weights": {"cache": {"existingClaim": "models"}},
}


def setting(section: str, **values: Any) -> dict[str, Any]:
    return {"settings": {section: values}}


def ray(**values: Any) -> dict[str, Any]:
    return {"ray": values}


def group(**values: Any) -> dict[str, Any]:
    fields = {"name": "engine", "replicas": 4, "minReplicas": 4, "maxReplicas": 4, **values}
    return ray(workerGroups=[{name: value for name, value in fields.items() if value is not None}])


def env(name: str, value: str = "1") -> dict[str, Any]:
    return {"extraEnv": [{"name": name, "value": value}]}


def volume(name: str, **source: Any) -> dict[str, Any]:
    return {"extraVolumes": [{"name": name, **source}]}


def resources(**values: Any) -> dict[str, Any]:
    return {"resources": values}


def peers(*values: Any) -> dict[str, Any]:
    return {"networkPolicy": {"clients": list(values)}}


# Base values, change. The words are not repeated here: test_chart_validate and test_chart_schema check them.
REFUSED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # Keys and types
    (DEFAULTS, {"replicaCounts": 2}),
    (DEFAULTS, {"weights": {"cahe": {"size": "1Gi"}}}),
    (DEFAULTS, {"replicaCount": "two"}),
    (DEFAULTS, {"replicaCount": 1.5}),
    (DEFAULTS, {"replicaCount": 5000}),
    (DEFAULTS, {"mode": "serverless"}),
    (DEFAULTS, {"strategy": "BlueGreen"}),
    (DEFAULTS, {"drainSeconds": -5}),
    (DEFAULTS, {"startupSeconds": 0}),
    (DEFAULTS, {"startupSeconds": "15m"}),
    (DEFAULTS, {"revisionHistoryLimit": -1}),
    (DEFAULTS, {"progressDeadlineSeconds": -1}),
    (DEFAULTS, {"rollingUpdate": {"maxSurge": "150%"}}),
    (DEFAULTS, {"rollingUpdate": {"maxSurge": 0}}),
    (DEFAULTS, {"fullnameOverride": "Upper"}),
    (DEFAULTS, {"namespaceOverride": "kube system"}),
    (DEFAULTS, {"commonLabels": {"a b": "c"}}),
    (DEFAULTS, {"podLabels": {"a": "b c"}}),
    (DEFAULTS, {"image": {"tag": "latest"}}),
    (DEFAULTS, {"image": {"digest": "sha256:abc"}}),
    (DEFAULTS, {"image": {"repository": "Has Space"}}),
    (DEFAULTS, {"image": {"pullPolicy": "Sometimes"}}),
    (DEFAULTS, {"imagePullSecrets": ["registry"]}),
    (DEFAULTS, {"global": {"imageRegistry": "https://registry.example"}}),
    # Security
    (DEFAULTS, {"runAsUser": 0}),
    (DEFAULTS, {"podSecurityContext": {"runAsNonRoot": False}}),
    (DEFAULTS, {"podSecurityContext": {"runAsUser": 0}}),
    (DEFAULTS, {"containerSecurityContext": {"privileged": True}}),
    (DEFAULTS, {"containerSecurityContext": {"allowPrivilegeEscalation": True}}),
    (DEFAULTS, {"containerSecurityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}),
    (DEFAULTS, {"podSecurityContext": {"seccompProfile": {"type": "Unconfined"}}}),
    (DEFAULTS, volume("host", hostPath={"path": "/"})),
    (DEFAULTS, env("HF_TOKEN", "hf_x")),
    (DEFAULTS, env("MY_API_KEY", "x")),
    (DEFAULTS, env("DB_PASSWORD", "x")),
    (DEFAULTS, env("HF_HOME", "/elsewhere")),
    (DEFAULTS, env("HOME", "/root")),
    (DEFAULTS, env("HF_HUB_OFFLINE", "0")),
    (DEFAULTS, env("CUDA_VISIBLE_DEVICES", "0")),
    (DEFAULTS, env("HYBRIDSERVE_GUARD__KIND", "none")),
    (DEFAULTS, env("HYBRIDSERVE_ACCESS__KEYS_FILE", "")),
    (DEFAULTS, env("not a name")),
    (DEFAULTS, {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
    (DEFAULTS, {"extraEnv": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}),
    (DEFAULTS, volume("tmp", emptyDir={})),
    (DEFAULTS, volume("settings", emptyDir={})),
    (DEFAULTS, {"extraVolumeMounts": [{"name": "missing", "mountPath": "/a"}]}),
    (DEFAULTS, {**volume("a", emptyDir={}), "extraVolumeMounts": [{"name": "a", "mountPath": "/tmp"}]}),
    (DEFAULTS, {**volume("a", emptyDir={}), "extraVolumeMounts": [{"name": "a", "mountPath": "/"}]}),
    (DEFAULTS, {**volume("a", emptyDir={}), "extraVolumeMounts": [{"name": "a", "mountPath": "relative"}]}),
    (DEFAULTS, {"serviceAccount": {"create": False}}),
    (DEFAULTS, {"extraContainers": [{"name": "shipper"}]}),
    (DEFAULTS, {"auth": {"existingSecret": "a", "keys": "b:c"}}),
    (DEFAULTS, {"auth": {"existingSecret": "Not A Name"}}),
    (DEFAULTS, {**setting("server", profile="production"), "check": {"enabled": False}}),
    (DEFAULTS, setting("server", profile="production")),
    (DEFAULTS, setting("server", profile="prod")),
    # Exposure
    (L40S, {"service": {"type": "LoadBalancer"}}),
    (
        L40S,
        {"service": {"type": "NodePort"}, "networkPolicy": {"enabled": False}, **setting("server", profile="staging")},
    ),
    (L40S, {"ingress": {"enabled": True, "hosts": [{"host": "a.example"}]}, "auth": {"existingSecret": "keys"}}),
    (L40S, {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}]}}),
    (DEFAULTS, {"ingress": {"enabled": True}}),
    (DEFAULTS, {"ingress": {"enabled": True, "hosts": [{"host": "not a host!"}]}}),
    (DEFAULTS, {"ingress": {"hosts": [{"host": "a.example", "pathType": "Regex"}]}}),
    (DEFAULTS, {"httpRoute": {"enabled": True}, **peers({"podSelector": {}})}),
    (DEFAULTS, {"httpRoute": {"timeout": "forever"}}),
    (DEFAULTS, {"service": {"type": "ExternalName"}}),
    (DEFAULTS, {"service": {"port": 0}}),
    (DEFAULTS, {"service": {"port": 70000}}),
    (DEFAULTS, {"service": {"nodePort": 80}}),
    (DEFAULTS, {"service": {"nodePort": 30080}}),
    (DEFAULTS, {"service": {"loadBalancerSourceRanges": ["10.0.0.0"]}}),
    (DEFAULTS, {"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}),
    (DEFAULTS, {"service": {"sessionAffinity": "Cookie"}}),
    (DEFAULTS, peers({"podSelector": {"matchLables": {"a": "b"}}})),
    (DEFAULTS, peers({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}})),
    (DEFAULTS, peers({"ipBlock": {"cidr": "everywhere"}})),
    (DEFAULTS, peers({})),
    (DEFAULTS, setting("guard", kind="nemo", url="http://guard:8000", config_id="x")),
    # Resources
    (DEFAULTS, resources(requests={"memory": "100Gi"})),
    (DEFAULTS, resources(requests={"memory": "lots"})),
    (DEFAULTS, resources(limits={"memory": "0"})),
    (DEFAULTS, resources(limits={"memory": "-1Gi"})),
    (DEFAULTS, resources(limits={"nvidia.com/gpu": 1})),
    (DEFAULTS, {"resourceClaims": [{"name": "gpu"}]}),
    (DEFAULTS, {"shmSize": "9Gi"}),
    (DEFAULTS, {"shmSize": "0"}),
    (DEFAULTS, {"tmpSize": "0Gi"}),
    (DEFAULTS, {"check": {"resources": {"requests": {"memory": "9Gi"}}}}),
    (L40S, resources(requests={"nvidia.com/gpu": 0}, limits={"nvidia.com/gpu": 0})),
    (L40S, resources(requests={"nvidia.com/gpu": 2})),
    (L40S, resources(requests={"nvidia.com/gpu": 2}, limits={"nvidia.com/gpu": 2})),
    (L40S, setting("engine", tensor_parallel_size=2)),
    (L40S, setting("accelerator", name="l40x")),
    (L40S, setting("accelerator", name="cpu")),
    (L40S, setting("model", id="qwen3-8b")),
    (L40S, setting("engine", max_num_seqs=100000)),
    (L40S, setting("engine", max_model_len=9999999)),
    (L40S, setting("engine", gpu_memory_utilization=3)),
    (L40S, setting("engine", extra_args={"port": 9000})),
    (L40S, setting("engine", extra_args={"trust_remote_code": True})),
    (L40S, setting("engine", extra_args={"host": "0.0.0.0"})),
    (L40S, setting("scaling", min_replicas=5, max_replicas=1)),
    (L40S, setting("scaling", max_replicas=4)),
    # Volumes
    (DEFAULTS, {"weights": {"cache": {"size": "0"}}}),
    (DEFAULTS, {"weights": {"cache": {"size": "-5Gi"}}}),
    (DEFAULTS, {"weights": {"cache": {"accessModes": ["RWX"]}}}),
    (DEFAULTS, {"weights": {"cache": {"persistent": True, "existingClaim": "c"}}}),
    (DEFAULTS, {"weights": {"endpoint": "mirror.example"}}),
    (DEFAULTS, {"weights": {"httpsProxy": "proxy:3128"}}),
    (DEFAULTS, {"weights": {"token": "hf"}}),
    (DEFAULTS, setting("model", id="qwen3-8b")),
    (L40S, {"replicaCount": 3}),
    (L40S, {"strategy": "RollingUpdate"}),
    (L40S, {"weights": {"cache": {"persistent": False}}}),
    (L40S, setting("model", revision="main")),
    (L40S, setting("model", source="/models/x")),
    # Availability and monitoring
    (DEFAULTS, {"podDisruptionBudget": {"maxUnavailable": 0}}),
    (DEFAULTS, {"podDisruptionBudget": {"minAvailable": "50%"}}),
    (DEFAULTS, {"podDisruptionBudget": {"unhealthyPodEvictionPolicy": "Never"}}),
    (DEFAULTS, {"probes": {"startup": {"periodSeconds": 0}}}),
    (DEFAULTS, {"lifecycle": {"preStop": {"exce": {}}}}),
    (DEFAULTS, {"check": {"deadlineSeconds": 0}}),
    (DEFAULTS, {"monitoring": {"interval": "30"}}),
    (DEFAULTS, {"test": {"url": "demo:8000"}}),
    (DEFAULTS, {"hookPods": {"tolerations": [{"operator": "Maybe"}]}}),
    (DEFAULTS, {"autoscaling": {"scaler": "vpa"}}),
    (DEFAULTS, {"autoscaling": {"scaler": ["keda", "hpa"]}}),
    (DEFAULTS, {"autoscaling": {"scaler": "keda", "resources": {"requests": {"memory": "9Gi"}}}}),
    # Mode rayservice
    (RAY, {"replicaCount": 2}),
    (RAY, resources(requests={"nvidia.com/gpu": 0}, limits={"nvidia.com/gpu": 0})),
    (RAY, {"weights": {"cache": {"persistent": True, "existingClaim": ""}}}),
    (RAY, env("RAY_REDIS_ADDRESS", "redis:6379")),
    (RAY, env("RAY_ADDRESS", "10.0.0.1:6379")),
    (RAY, env("RAY_AUTH_MODE", "disabled")),
    (RAY, env("REDIS_USERNAME", "default")),
    (RAY, env("RAY_enable_autoscaler_v2", "false")),
    (RAY, env("KUBERAY_GEN_RAY_START_CMD", "ray start")),
    (RAY, env("FQ_RAY_IP", "x")),
    (RAY, ray(version="2.51.0")),
    ({"mode": "rayservice"}, ray(version="2.99.0")),
    (RAY, ray(upgradeStrategy="Rolling")),
    (RAY, ray(upgradeStrategy="NewClusterWithIncrementalUpgrade")),
    (
        RAY,
        ray(
            upgradeStrategy="NewClusterWithIncrementalUpgrade",
            autoscaler={"enabled": False},
            incrementalUpgrade={"gatewayClassName": "istio"},
        ),
    ),
    (RAY, ray(workerGroups=[])),
    (RAY, group(minReplicas=5)),
    (RAY, group(replicas=1)),
    (RAY, group(maxReplicas=0)),
    (RAY, group(name="Upper")),
    (RAY, group(name=None)),
    (RAY, group(replicas=1, minReplicas=1, maxReplicas=2)),
    (RAY, {**group(), **setting("engine", tensor_parallel_size=4), "plan": {}}),
    (RAY, {"serviceAccount": {"create": False, "name": "mine"}}),
    (RAY, ray(objectStoreMiB=4096)),
    (RAY, ray(maxSurgePercent=101)),
    (RAY, ray(startAttempts=0)),
    (RAY, ray(redis={"address": "redis://user:secret@redis:6379"})),
    (RAY, ray(redis={"address": "", "existingSecret": "redis"})),
    (RAY, {"networkPolicy": {"redis": []}}),
    (RAY, ray(token={"existingSecret": "a", "value": "b"})),
    (RAY, {**ray(token={"enabled": False}), **setting("server", profile="staging")}),
    (RAY, setting("server", data_path="single")),
    (RAY, {"podDisruptionBudget": {"minAvailable": 3}}),
    (RAY, {"shmSize": "200Mi"}),
]
ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (DEFAULTS, {"global": {"imageRegistry": "registry.example"}}),
    (NO_GPU, resources(requests={"nvidia.com/gpu.shared": 1}, limits={"nvidia.com/gpu.shared": 1})),
    (NO_GPU, resources(claims=[{"name": "gpu"}])),
    (
        NO_GPU,
        resources(claims=[{"name": "gpu"}]) | {"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]},
    ),
    (DEFAULTS, {"runAsUser": None}),
    (RAY, setting("accelerator", name="NVIDIA L40S")),
]  # fmt: skip


def name_of(case: tuple[dict[str, Any], dict[str, Any]]) -> str:
    base = {id(DEFAULTS): "defaults", id(L40S): "l40s", id(RAY): "ray"}.get(id(case[0]), "minimal")
    return f"{base}-{json.dumps(case[1])[:70]}"


def refusal(values: dict[str, Any]) -> str | None:
    """The reason for which Helm renders nothing, or None."""
    try:
        helm("template", "demo", str(CHART), "--namespace", "serving", "--values", "-", stdin=json.dumps(values))
    except HelmError as error:
        return str(error)
    return None


def settings_checked_by_the_hook(values: dict[str, Any]) -> str:
    """The settings that the hook Job checks."""
    return str(only(template(values), "ConfigMap", "demo-check")["data"]["hybridserve.yaml"])


@pytest.mark.parametrize("case", REFUSED, ids=name_of)
def test_refused_when_rendered(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    base, change = case
    reason = refusal(merged(base, change))
    assert reason is not None
    assert "nil pointer" not in reason
    assert "error calling" not in reason


def test_bases_are_accepted() -> None:
    assert len(REFUSED) >= 150
    assert all(refusal(base) is None for base in (DEFAULTS, L40S, RAY, {"mode": "rayservice"}))


@pytest.mark.parametrize("case", ACCEPTED, ids=name_of)
def test_unusual_values_are_accepted(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert refusal(merged(*case)) is None


def ray_in_production() -> dict[str, Any]:
    """Values of mode rayservice in a stricter profile, without peers of its policies."""
    values = values_of("rayservice")
    values["settings"].setdefault("server", {})["profile"] = "production"
    values["settings"]["license"] = {"accepted": [{"license": "a", "by": "b", "accepted": "2026-11-20"}]}
    values["settings"]["guard"] = {"kind": "model", "url": "http://guard:8080/v1"}
    values["networkPolicy"] = values.get("networkPolicy", {}) | {
        "guard": [{"podSelector": {}}],
        "operator": [],
        "apiServer": [],
    }
    return values


LIMITED: dict[str, Any] = {"settings": {"access": {"requests_per_minute": 60}}}


def test_global_registry_reaches_every_image() -> None:
    objects = template({"global": {"imageRegistry": "registry.example", "imagePullSecrets": [{"name": "pull"}]}})
    specs = [item["spec"]["template"]["spec"] for item in objects if item["kind"] in ("Deployment", "Job")]
    specs += [item["spec"] for item in objects if item["kind"] == "Pod"]
    assert len(specs) == 3
    for spec in specs:
        assert spec["imagePullSecrets"] == [{"name": "pull"}]
        assert all(container["image"].startswith("registry.example/") for container in spec["containers"])


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"drainSeconds": 86400}, "drainSeconds: above one hour"),
        (
            {"monitoring": {"dashboards": {"enabled": True}}},
            "monitoring.rules.enabled: panels that use recording rules",
        ),
        ({"strategy": "Recreate"}, "strategy: with Recreate"),
        ({"autoscaling": {"scaler": "hpa"}}, "autoscaling.scaler: hpa needs Prometheus"),
        ({"mode": "rayservice", "ray": {"upgradeStrategy": "None"}}, "ray.upgradeStrategy: with None"),
        (ray_in_production(), "networkPolicy.operator: pods with the operator's label reach Ray's dashboard"),
        (ray_in_production(), "networkPolicy.apiServer: the head reaches every address on ports 443 and 6443"),
        ({"mode": "rayservice", "ray": {"initializingTimeoutSeconds": 60}}, "ray.initializingTimeoutSeconds: after"),
        ({"mode": "rayservice", "ray": {"maxSurgePercent": 0}}, "ray.maxSurgePercent: a setting that replaces"),
        ({"replicaCount": 3} | LIMITED, "settings.access.limits_url: each pod counts by itself, so a key gets up to 3"),
        (
            {
                "autoscaling": {"scaler": "keda"},
                "settings": {"scaling": {"max_replicas": 4}, "access": {"max_streams": 8}},
            },
            "settings.access.limits_url: each pod counts by itself, so a key gets up to 4",
        ),
        ({"replicaCount": 2, "auth": {"keys": f"alice sha256:{'ab' * 32} rpm=60"}}, "settings.access.limits_url: each"),
    ],
)
def test_notes_warn_about_risky_values(values: dict[str, Any], warning: str) -> None:
    words = ("install", "demo", str(CHART), "--dry-run=client", "--namespace", "serving", "--values", "-")
    assert warning in helm(*words, stdin=yaml.safe_dump(values)).partition("NOTES:")[2]


@pytest.mark.parametrize(
    "values",
    [
        LIMITED,
        {"replicaCount": 3, "auth": {"keys": f"alice sha256:{'ab' * 32} expires=2027-01-31"}},
        {"mode": "rayservice", "settings": LIMITED["settings"] | {"scaling": {"max_replicas": 3}}},
        {
            "replicaCount": 3,
            "settings": {"access": {"requests_per_minute": 60, "limits_url": "redis://limits:6379/0"}},
            "networkPolicy": {"redis": [{"podSelector": {}}]},
        },
    ],
    ids=["one pod", "no limits", "Ray", "shared"],
)
def test_notes_do_not_warn_about_limits_that_hold(values: dict[str, Any]) -> None:
    words = ("install", "demo", str(CHART), "--dry-run=client", "--namespace", "serving", "--values", "-")
    said = helm(*words, stdin=yaml.safe_dump(values)).partition("NOTES:")[2]
    assert "Warnings:" in said
    assert "limits_url" not in said


@pytest.mark.parametrize("case", CASES)
def test_shipped_values_pass_the_check(case: str, tmp_path: Path) -> None:
    """Every profile and values file, those that turn the check off included."""
    values = values_of(case) | {"check": values_of(case).get("check", {}) | {"enabled": True}}
    assert check_exit_code(settings_checked_by_the_hook(values), tmp_path) == 0
