"""Pods and Services that KubeRay makes of the chart's RayService: valid, restricted, selected as they should be."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from typing import Any

import kubernetes_validate
import pytest
import yaml
from chart_cases import CASES, values_of
from chart_helm import CHART, Object, only, template
from kuberay import OPERATOR_ENV, matches, pods, services
from pod_security import violations

RAY_CASES = [case for case in CASES if values_of(case).get("mode") == "rayservice"]
MINIMAL: dict[str, Any] = {"mode": "rayservice"}


def all_pods(objects: list[Object]) -> list[Object]:
    """Every pod of a release: KubeRay's, and those of the Deployment, the check and the test."""
    made = [pod for item in objects if item["kind"] == "RayService" for pod in pods(item)]
    for item in objects:
        if item["kind"] in ("Deployment", "Job"):
            template_ = item["spec"]["template"]
            made.append({"metadata": {"labels": template_["metadata"]["labels"]}, "spec": template_["spec"]})
        elif item["kind"] == "Pod":
            made.append(item)
    return made


def component(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


@pytest.mark.parametrize("case", RAY_CASES)
def test_projected_pods_are_valid_and_restricted(case: str) -> None:
    for pod in pods(only(template(values_of(case)), "RayService")):
        kubernetes_validate.validate(pod, "1.33", strict=True)
        assert violations(pod["spec"]) == []
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            names = [variable["name"] for variable in container["env"]]
            assert len(names) == len(set(names)), container["name"]
            volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("case", RAY_CASES)
def test_template_sets_nothing_that_the_operator_sets(case: str) -> None:
    cluster = only(template(values_of(case)), "RayService")["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        assert not OPERATOR_ENV & {variable["name"] for variable in container["env"]}
        assert not {"app.kubernetes.io/name", "app.kubernetes.io/created-by"} & set(
            group["template"]["metadata"]["labels"]
        )
        assert not any(name.startswith("ray.io/") for name in group["template"]["metadata"]["labels"])


@pytest.mark.parametrize("case", RAY_CASES)
def test_operator_services_select_their_pods(case: str) -> None:
    service = only(template(values_of(case)), "RayService")
    made = pods(service)
    for name, selector in services(service).items():
        selected = {component(pod) for pod in made if selector.items() <= pod["metadata"]["labels"].items()}
        assert selected == ({"head"} if "head-svc" in name else {"worker"}), name


@pytest.mark.parametrize("case", CASES)
def test_every_selector_selects_its_components(case: str) -> None:
    objects = template(values_of(case))
    made = all_pods(objects)
    engine = "worker" if case in RAY_CASES else "engine"
    everything = {component(pod) for pod in made}
    ray = {"head", "worker"} & everything
    wanted = {
        ("Service", "demo"): {engine},
        ("Deployment", "demo"): {engine},
        ("PodDisruptionBudget", "demo"): {engine},
        ("Service", "demo-pods"): {engine},
        ("Service", "demo-autoscaler"): {"autoscaler"},
        ("Deployment", "demo-autoscaler"): {"autoscaler"},
        ("NetworkPolicy", "demo-autoscaler"): {"autoscaler"},
        ("PodMonitor", "demo"): ({engine, "autoscaler"} & everything) | ray,
        ("Service", "demo-guard"): {"guard"},
        ("Deployment", "demo-guard"): {"guard"},
        ("PodDisruptionBudget", "demo-guard"): {"guard"},
        ("NetworkPolicy", "demo-guard"): {"guard"},
        ("NetworkPolicy", "demo-deny"): everything,
        ("NetworkPolicy", "demo-engine"): {engine},
        ("NetworkPolicy", "demo-head"): {"head"},
        ("NetworkPolicy", "demo-ray"): ray,
        ("NetworkPolicy", "demo-test"): {"test"},
    }
    checked = 0
    for item in objects:
        spec = item.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if not isinstance(selector, dict):
            continue
        if item["kind"] == "Service":
            selector = {"matchLabels": selector}
        selected = {component(pod) for pod in made if matches(selector, pod["metadata"]["labels"])}
        assert selected == wanted[item["kind"], item["metadata"]["name"]], item["metadata"]["name"]
        checked += 1
    assert checked >= 1


@pytest.mark.parametrize("workers", [(1, 1), (0, 4), (2, 4), (3, 3)])
def test_disruption_budget_over_ray_pods_is_a_whole_number(workers: tuple[int, int]) -> None:
    """The disruption controller cannot compute maxUnavailable or a percentage without a scale subresource."""
    least, most = workers
    group = {"name": "engine", "replicas": max(least, 1), "minReplicas": least, "maxReplicas": most}
    budgets = [
        item["spec"]
        for item in template({**MINIMAL, "ray": {"workerGroups": [group]}})
        if item["kind"] == "PodDisruptionBudget"
    ]
    assert len(budgets) == (least > 1)
    for budget in budgets:
        assert "maxUnavailable" not in budget
        assert type(budget["minAvailable"]) is int
        assert 0 < budget["minAvailable"] < least


def test_head_mounts_what_the_settings_name() -> None:
    values = {
        **MINIMAL,
        "settings": {"license": {"waivers_file": "/etc/rules/waivers.yaml"}, "model": {"source": "/models/mine"}},
        "extraVolumes": [{"name": "rules", "configMap": {"name": "rules"}}],
        "extraVolumeMounts": [{"name": "rules", "mountPath": "/etc/rules"}],
        "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        "weights": {"cache": {"existingClaim": "models"}},
        "auth": {"existingSecret": "keys"},
        "notice": {"files": {"NOTICE": "text"}},
    }
    head, worker = pods(only(template(values), "RayService"))
    paths = {mount["mountPath"] for mount in head["spec"]["containers"][0]["volumeMounts"]}
    assert {"/etc/rules", "/models", "/etc/hybridserve-keys", "/etc/hybridserve-notice"} <= paths
    assert head["spec"]["containers"][0]["envFrom"] == worker["spec"]["containers"][0]["envFrom"]


@pytest.mark.parametrize("mode", ["standalone", "rayservice"])
@pytest.mark.parametrize(
    ("name", "refused"),
    [
        *(
            (name, True)
            for name in ("RAY_AUTH_MODE", "HYBRIDSERVE_GUARD__KIND", "CUDA_VISIBLE_DEVICES", "REDIS_PASSWORD")
        ),
        *((name, False) for name in ("HTTPS_PROXY", "HF_HOME", "RAY_IP", "MY_RAY_ADDRESS")),
    ],
)
def test_reserved_names_from_extra_env_from_stop_the_pod(mode: str, name: str, refused: bool) -> None:
    """The script of the init container, run here. HF_HOME is in `env`, which wins; KubeRay itself sets RAY_IP."""
    made = all_pods(template({"mode": mode, "extraEnvFrom": [{"secretRef": {"name": "more"}}]}))
    checked = [pod for pod in made if component(pod) in ("engine", "head", "worker")]
    assert len(checked) == (1 if mode == "standalone" else 2)
    for pod in checked:
        (guard,) = [one for one in pod["spec"]["initContainers"] if one["name"] == "environment"]
        assert guard["envFrom"] == pod["spec"]["containers"][0]["envFrom"]
        words = [*guard["command"], *guard["args"]]
        ran = subprocess.run(
            words, env={"PATH": os.environ["PATH"], name: "a\nRAY_X=b"}, capture_output=True, text=True
        )
        assert ran.returncode == int(refused)
        assert (f"extraEnvFrom: {name}: reserved" in ran.stdout) == refused
    wins = {one["name"] for pod in checked for one in pod["spec"]["containers"][0]["env"]}
    assert {"HF_HOME", "HF_HUB_OFFLINE", "RAY_USAGE_STATS_ENABLED"} <= wins


@pytest.mark.parametrize(
    ("proxy", "replica", "ready"), [(200, 200, True), (503, 200, False), (200, 503, False), (None, None, False)]
)
def test_worker_is_ready_while_its_proxy_and_a_replica_are(proxy: int | None, replica: int | None, ready: bool) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/-/healthz": proxy, "/ready": replica}[self.path] or 500)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = str(server.server_address[1] if proxy else 1)
        ran = subprocess.run(
            [sys.executable, "-IS", CHART / "files" / "ready.py", port], capture_output=True, text=True
        )
        server.shutdown()
        thread.join()
    assert (ran.returncode == 0) == ready, ran.stderr
    assert "Traceback" not in ran.stderr


def test_logs_rotate_reach_the_container_and_fit_into_tmp() -> None:
    for pod in pods(only(template(MINIMAL), "RayService")):
        ray = pod["spec"]["containers"][0]
        variables = {variable["name"]: variable.get("value") for variable in ray["env"]}
        kept = int(variables["RAY_ROTATION_MAX_BYTES"]) * (1 + int(variables["RAY_ROTATION_BACKUP_COUNT"]))
        assert kept <= 64 * 2**20
        assert variables["RAY_LOG_TO_STDERR"] == "1"
        tmp = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "tmp")
        assert tmp["emptyDir"] == {"sizeLimit": "4Gi"}
    config = yaml.safe_load(only(template(MINIMAL), "RayService")["spec"]["serveConfigV2"])
    assert config["logging_config"]["enable_access_log"] is False


def test_object_store_fits_into_shared_memory() -> None:
    for pod in pods(only(template(MINIMAL), "RayService")):
        assert "--object-store-memory=268435456 " in pod["spec"]["containers"][0]["args"][0] + " "


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ({"limits": {"nvidia.com/gpu": 2}}, "2"),
        ({"limits": {"nvidia.com/gpu.shared": 1}}, "1"),
        ({"limits": {"nvidia.com/mig-3g.40gb": 1}}, "1"),
        ({"limits": {"amd.com/gpu": 1}}, "1"),
        ({"claims": [{"name": "gpu"}]}, "1"),
    ],
    ids=str,
)
def test_ray_counts_gpus_of_every_kind(resources: dict[str, Any], gpus: str) -> None:
    values = {
        **MINIMAL,
        "settings": {"accelerator": {"name": "h100"}},
        "resources": {"requests": None, **resources} if "claims" in resources else resources,
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}] if "claims" in resources else [],
    }
    if "claims" not in resources:
        values["resources"]["requests"] = dict(resources["limits"])
    service = only(template(values), "RayService")
    _, worker = pods(service)
    assert f"--num-gpus={gpus} " in worker["spec"]["containers"][0]["args"][0] + " "
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert group["resources"] == {"accelerator_type:H100": "1"}, "the autoscaler finds no node without it"


def test_redis_cleanup_finds_its_objects_after_uninstall() -> None:
    """KubeRay's cleanup Job runs from the head template after Helm has deleted the release."""
    objects = template(values_of("rayservice"))
    head = pods(only(objects, "RayService"))[0]
    needed = {("ServiceAccount", head["spec"]["serviceAccountName"])}
    for volume in head["spec"]["volumes"]:
        needed |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
    for item in objects:
        if (item["kind"], item["metadata"]["name"]) in needed:
            assert item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
            needed.discard((item["kind"], item["metadata"]["name"]))
    assert not needed
    without = values_of("rayservice")
    without["ray"]["redis"] = {"address": "", "existingSecret": ""}
    assert "annotations" not in only(template(without), "ServiceAccount", "demo-head")["metadata"]


def test_final_timeout_is_off_by_default() -> None:
    assert "annotations" not in only(template(MINIMAL), "RayService")["metadata"]
    service = only(template({**MINIMAL, "ray": {"initializingTimeoutSeconds": 600}}), "RayService")
    assert service["metadata"]["annotations"] == {"ray.io/initializing-timeout": "600s"}


def test_token_of_the_operator_needs_no_secret() -> None:
    cluster = only(template(MINIMAL), "RayService")["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}


def test_requests_balance_over_workers() -> None:
    for pod in pods(only(template(MINIMAL), "RayService")):
        variables = {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}
        assert variables["RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING"] == "0"


def test_service_of_the_release_survives_a_change_of_mode() -> None:
    before, after = template({}), template(MINIMAL)
    assert only(before, "Service")["metadata"]["name"] == only(after, "Service")["metadata"]["name"]
    serve = only(after, "RayService")["spec"]["serveService"]
    assert serve["metadata"]["name"] != only(after, "Service")["metadata"]["name"]
