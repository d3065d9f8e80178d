"""What KubeRay 1.7 and Ray Serve do when a RayService changes, as a comparison of two specs.

From ray-operator v1.7.0: utils/validation.go, utils/util.go GenerateHashWithoutReplicasAndWorkersToDelete, and
rayservice_controller.go shouldUpdateCluster, shouldPrepareNewCluster, isZeroDowntimeUpgradeEnabled, reconcileServices,
checkIfNeedSubmitServeApplications. From Ray 2.60: serve/_private/deploy_utils.py get_app_code_version.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from enum import StrEnum
from typing import Any

import yaml
from chart_helm import Object


class Effect(StrEnum):
    """Effects of one change; several can happen at once."""

    REFUSED = "the operator refuses the RayService"
    NEW_CLUSTER = "a second RayCluster starts, and traffic switches to it"
    CLUSTER_UPDATE = "the running RayCluster is updated"
    REPLICAS = "Ray Serve replaces the replicas"
    IN_PLACE = "Ray Serve changes running replicas"
    IGNORED = "the change has no effect on what runs"
    DELETED = "the RayClusters end with the RayService"


MUTED = ("replicas", "minReplicas", "maxReplicas")


def muted(spec: Object, groups: int | None = None) -> Object:
    """The RayCluster spec without the fields that start no new cluster; only the first `groups` worker groups."""
    made = copy.deepcopy(spec)
    made.pop("upgradeStrategy", None)
    if groups is not None:
        made["workerGroupSpecs"] = made["workerGroupSpecs"][:groups]
    for group in [made["headGroupSpec"], *made["workerGroupSpecs"]]:
        for name in ("tolerations", "schedulingGates"):
            group["template"]["spec"].pop(name, None)
    for group in made["workerGroupSpecs"]:
        for name in MUTED:
            group.pop(name, None)
        group.get("scaleStrategy", {}).pop("workersToDelete", None)
    return made


def spec_hash(spec: Object, groups: int | None = None) -> str:
    """What the operator notes at a RayCluster that it makes, and compares later."""
    return hashlib.sha256(json.dumps(muted(spec, groups), sort_keys=True).encode()).hexdigest()


def cluster_effect(running: str, groups: int, service: Object) -> Effect | None:
    """What happens to a RayCluster of this hash and number of worker groups when the RayService is now this one."""
    wanted = service["spec"]["rayClusterConfig"]
    if running == spec_hash(wanted):
        return None
    if len(wanted["workerGroupSpecs"]) >= groups and running == spec_hash(wanted, groups):
        return Effect.CLUSTER_UPDATE
    strategy = service["spec"].get("upgradeStrategy", {}).get("type", "NewCluster")
    return Effect.IGNORED if strategy == "None" else Effect.NEW_CLUSTER


def problems(service: Object) -> list[str]:
    """Reasons for which the operator refuses a RayService."""
    found = []
    spec, cluster = service["spec"], service["spec"]["rayClusterConfig"]
    if len(service["metadata"]["name"]) > 47 or not re.match(
        "^[a-z]([-a-z0-9]*[a-z0-9])?$", service["metadata"]["name"]
    ):
        found.append("the name is not a DNS-1035 label of at most 47 characters")
    strategy = spec.get("upgradeStrategy", {})
    if strategy.get("type") not in (None, "None", "NewCluster", "NewClusterWithIncrementalUpgrade"):
        found.append(f"upgradeStrategy.type {strategy['type']}")
    if strategy.get("type") == "NewClusterWithIncrementalUpgrade":
        options = strategy.get("clusterUpgradeOptions", {})
        step, surge = options.get("stepSizePercent", -1), options.get("maxSurgePercent", 100)
        if not cluster.get("enableInTreeAutoscaling"):
            found.append("an incremental upgrade needs the autoscaler")
        if (
            not options.get("gatewayClassName")
            or not 0 <= step <= surge <= 100
            or options.get("intervalSeconds", 0) <= 0
        ):
            found.append("clusterUpgradeOptions")
    if "upgradeStrategy" in cluster or "metadata" in cluster["headGroupSpec"].get("headService", {}):
        found.append("a field that a RayService may not set")
    auth = cluster.get("authOptions", {})
    version = tuple(int(part) for part in str(cluster.get("rayVersion", "0.0.0")).split("."))
    if auth.get("mode") == "token" and version < (2, 52, 0):
        found.append("token authentication needs Ray 2.52")
    head = cluster["headGroupSpec"]["template"]
    variables = {variable["name"] for variable in head["spec"]["containers"][0].get("env", [])}
    if "RAY_REDIS_ADDRESS" in variables or "ray.io/ft-enabled" in head["metadata"].get("annotations", {}):
        found.append("fault tolerance is configured twice")
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["maxReplicas"]:
            found.append(f"bounds of {group['groupName']}")
        if group.get("resources") and "resources" in group["rayStartParams"]:
            found.append(f"resources of {group['groupName']} are given twice")
    return found


def code_version(config: Any) -> list[Any]:
    """What Ray Serve hashes: a difference replaces every replica."""
    return [
        (
            application["import_path"],
            application.get("runtime_env"),
            application.get("args"),
            application.get("autoscaling_policy"),
            [deployment.get("autoscaling_config", {}).get("policy") for deployment in application["deployments"]],
        )
        for application in config["applications"]
    ]


def decide(before: Object, after: Object | None) -> set[Effect]:
    """Effects of replacing one RayService by another, or by none, while one cluster serves; empty: nothing happens."""
    if after is None:
        return {Effect.DELETED}
    if problems(after):
        return {Effect.REFUSED}
    old, new = before["spec"], after["spec"]
    clusters = old["rayClusterConfig"], new["rayClusterConfig"]
    effect = cluster_effect(spec_hash(clusters[0]), len(clusters[0]["workerGroupSpecs"]), after)
    if effect is None and clusters[0] != clusters[1]:
        effect = Effect.IGNORED  # a field that the hash leaves out
    effects = {effect} if effect else set()
    switches = effect is Effect.NEW_CLUSTER
    if old.get("serveService") != new.get("serveService") and not switches:
        effects.add(Effect.IGNORED)
    if old["serveConfigV2"] != new["serveConfigV2"] and not switches:
        configs = [yaml.safe_load(spec["serveConfigV2"]) for spec in (old, new)]
        same = code_version(configs[0]) == code_version(configs[1])
        effects.add(Effect.IN_PLACE if same else Effect.REPLICAS)
    return effects
