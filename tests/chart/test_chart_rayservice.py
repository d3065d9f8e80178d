"""KubeRay's rules that no CRD holds, on every values file of mode rayservice; and Ray's own view of serveConfigV2."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from chart_cases import CASES, values_of
from chart_helm import Object, only, template

from hybridserve.settings import Settings
from hybridserve.settings.live import with_live_settings

RAY_CASES = [case for case in CASES if values_of(case).get("mode") == "rayservice"]
pytestmark = pytest.mark.parametrize("case", RAY_CASES)


def rayservice(case: str) -> Object:
    return only(template(values_of(case)), "RayService")


def groups(service: Object) -> list[dict[str, Any]]:
    cluster = service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_upgrade_strategy(case: str) -> None:
    spec = rayservice(case)["spec"]
    strategy = spec["upgradeStrategy"]
    assert strategy["type"] in ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
    if strategy["type"] == "NewClusterWithIncrementalUpgrade":
        options = strategy["clusterUpgradeOptions"]
        assert spec["rayClusterConfig"]["enableInTreeAutoscaling"] is True
        assert options["gatewayClassName"]
        assert 0 <= options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
        assert options["intervalSeconds"] > 0
    assert "upgradeStrategy" not in spec["rayClusterConfig"]


def test_fields_that_kuberay_refuses(case: str) -> None:
    cluster = rayservice(case)["spec"]["rayClusterConfig"]
    assert not {"networkPolicy", "tlsOptions", "historyServerOptions", "suspend"} & set(cluster)
    assert "headService" not in cluster["headGroupSpec"]
    assert "enableK8sTokenAuth" not in cluster.get("authOptions", {})
    assert cluster["authOptions"]["mode"] == "token"
    assert "backend" not in cluster.get("gcsFaultToleranceOptions", {})
    for group in groups(rayservice(case)):
        start = group["rayStartParams"]
        assert not {"labels", "resources", "redis-password", "redis-username"} & set(start)
        assert "restartPolicy" not in group["template"]["spec"]
        assert "ray.io/ft-enabled" not in group["template"]["metadata"].get("annotations", {})
        for container in group["template"]["spec"]["containers"]:
            names = {variable["name"] for variable in container["env"]}
            assert not names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2"}


def test_workers(case: str) -> None:
    for group in rayservice(case)["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        # With a readiness probe of its own a worker needs no wget and no bash for KubeRay's.
        script = "/etc/hybridserve-drain/ready.py"
        assert container["readinessProbe"]["exec"]["command"] == ["python", "-IS", script, "8000"]
        assert {port["name"] for port in container["ports"]} == {"serve", "metrics", "replica-0"}


def test_head_serves_no_requests(case: str) -> None:
    spec = rayservice(case)["spec"]
    head = spec["rayClusterConfig"]["headGroupSpec"]
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert head["rayStartParams"]["num-cpus"] == head["rayStartParams"]["num-gpus"] == "0"
    ports = {port["name"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    assert {"serve", "gcs-server", "dashboard", "metrics"} <= ports  # without `serve` KubeRay makes no Service


def test_autoscaler_is_version_two(case: str) -> None:
    cluster = rayservice(case)["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["securityContext"]["runAsNonRoot"] is True


def test_streams_end_before_pods_do(case: str) -> None:
    values = values_of(case)
    drain = values.get("drainSeconds", 60)
    service = rayservice(case)
    assert service["spec"]["rayClusterDeletionDelaySeconds"] > drain
    for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        *_, settle, hook = container["lifecycle"]["preStop"]["exec"]["command"]
        assert drain < int(hook) < pod["terminationGracePeriodSeconds"]
        assert int(settle) < int(hook)


def test_ray_and_the_settings_accept_the_application(case: str) -> None:
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(rayservice(case)["spec"]["serveConfigV2"])
    parsed = ServeDeploySchema.model_validate(config)
    (application,) = parsed.applications
    assert application.import_path == "hybridserve.runtime.ray_app:build_app"
    (deployment,) = application.deployments
    settings = with_live_settings(Settings.model_validate(application.args["settings"]), deployment.user_config)
    assert settings.server.host == "0.0.0.0"
    assert deployment.max_surge_percent == 25, "new replicas start before old ones stop"
    scaling = AutoscalingConfig(**deployment.autoscaling_config)
    assert scaling.policy.policy_kwargs["settings"] == application.args["settings"]
    assert scaling.max_replicas == values_of(case).get("settings", {}).get("scaling", {}).get("max_replicas", 1)
    asked = values_of(case).get("settings", {})
    assert settings.model.id == asked.get("model", {}).get("id", "demo")
