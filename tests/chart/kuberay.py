"""What the KubeRay operator 1.7 creates for a RayService: its pods and Services, with default feature gates.

Written from the operator's source (ray-operator/controllers/ray/common/{pod,service,rbac}.go and
rayservice_controller.go, tag v1.7.0). It covers the fields that the chart uses: a successful reconcile of one cluster.
tests/chart/cluster runs these pods on a real Kubernetes.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from chart_helm import Object

CLUSTER = "cluster"
# Names that the operator sets or reads. It keeps a value that the pod template has, so the template must not have one.
OPERATOR_ENV = {
    "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_ADDRESS", "RAY_IP",
    "FQ_RAY_IP", "RAY_PORT", "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE", "RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME",
    "KUBERAY_GEN_RAY_START_CMD", "RAY_timeout_ms_task_wait_for_death_info", "RAY_gcs_server_request_timeout_seconds",
    "RAY_SERVE_KV_TIMEOUT_S", "RAY_USAGE_STATS_KUBERAY_IN_USE", "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE",
    "RAY_USAGE_STATS_EXTRA_TAGS", "RAY_enable_autoscaler_v2", "RAY_external_storage_namespace",
    "RAY_gcs_rpc_server_reconnect_timeout_s",
}  # fmt: skip
# Labels that a template cannot replace.
OPERATOR_LABELS = {"ray.io/node-type", "ray.io/group", "ray.io/cluster"}


def set_env(container: Object, name: str, value: str | None = None, **source: Any) -> None:
    """Add a variable unless the container has it."""
    variables = container.setdefault("env", [])
    if not any(variable["name"] == name for variable in variables):
        variables.append({"name": name, **({"value": value} if value is not None else {}), **source})


def _field(path: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": path}}


def _set_token(container: Object, auth: Mapping[str, Any], cluster: str) -> None:
    set_env(container, "RAY_AUTH_MODE", "token")
    secret = auth.get("secretName") or cluster
    set_env(container, "RAY_AUTH_TOKEN", valueFrom={"secretKeyRef": {"name": secret, "key": "auth_token"}})


def _set_common_env(container: Object, head: bool, address: str, command: str) -> None:
    if not head:
        set_env(container, "FQ_RAY_IP", address)
        set_env(container, "RAY_IP", address.partition(".")[0])
    set_env(container, "RAY_CLUSTER_NAME", valueFrom=_field("metadata.labels['ray.io/cluster']"))
    set_env(container, "RAY_CLUSTER_NAMESPACE", valueFrom=_field("metadata.namespace"))
    set_env(container, "RAY_CLOUD_INSTANCE_ID", valueFrom=_field("metadata.name"))
    set_env(container, "RAY_NODE_TYPE_NAME", valueFrom=_field("metadata.labels['ray.io/group']"))
    set_env(container, "KUBERAY_GEN_RAY_START_CMD", command)
    set_env(container, "RAY_PORT", "6379")
    set_env(container, "RAY_timeout_ms_task_wait_for_death_info", "0")
    set_env(container, "RAY_gcs_server_request_timeout_seconds", "5")
    set_env(container, "RAY_SERVE_KV_TIMEOUT_S", "5")
    set_env(container, "RAY_ADDRESS", ("127.0.0.1" if head else address) + ":6379")
    set_env(container, "RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    if head:
        set_env(container, "RAY_USAGE_STATS_EXTRA_TAGS", "kuberay_version=v1.7.0;kuberay_crd=RayService")
    set_env(container, "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "1")


def _mount_empty_dir(pod: Object, container: Object, name: str, path: str, medium: str = "") -> None:
    """Mount an emptyDir unless something is mounted at that path."""
    if any(mount["mountPath"] == path for mount in container.get("volumeMounts", [])):
        return
    volumes = pod["spec"].setdefault("volumes", [])
    if not any(volume["name"] == name for volume in volumes):
        volumes.append({"name": name, "emptyDir": {"medium": medium} if medium else {}})
    container.setdefault("volumeMounts", []).append({"name": name, "mountPath": path})


UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30,
         "Ti": 2.0**40}  # fmt: skip


def quantity(amount: Any) -> int:
    """A Kubernetes quantity as a whole number, rounded up."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(amount)).groups()  # type: ignore[union-attr]
    return math.ceil(float(number) * UNITS[unit])


def ray_start(head: bool, params: Mapping[str, str], resources: Mapping[str, Any]) -> str:
    """The command line that the operator generates, with CPUs, memory and GPUs of the limits."""
    made = {"metrics-export-port": "8080", "dashboard-agent-listen-port": "52365", **params, "block": "true"}
    limits = resources.get("limits", {})
    cpus = limits.get("cpu") or resources.get("requests", {}).get("cpu")
    if cpus:
        made.setdefault("num-cpus", str(quantity(cpus)))
    if "memory" in limits:
        made.setdefault("memory", str(quantity(limits["memory"])))
    for name, amount in limits.items():
        if name.endswith("gpu") or "/mig-" in name:
            made.setdefault("num-gpus", str(quantity(amount)))
    flags = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in sorted(made.items())]
    return " ".join(["ray start", *(["--head"] if head else []), *flags])


def _pod(cluster: str, kind: str, group: str, template: Object, namespace: str) -> Object:
    labels = {
        "ray.io/is-ray-node": "yes",
        "ray.io/cluster": cluster,
        "ray.io/node-type": kind,
        "ray.io/group": group,
        "ray.io/identifier": f"{cluster}-{kind}",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/serve": "false" if kind == "head" else "true",
    }
    own = template["metadata"].get("labels", {})
    labels |= {name: value for name, value in own.items() if name not in OPERATOR_LABELS}
    metadata = {"name": f"{cluster}-{group}", "namespace": namespace, "labels": labels}
    metadata["annotations"] = template["metadata"].get("annotations", {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}


def _autoscaler(options: Mapping[str, Any], image: str, auth: Mapping[str, Any], cluster: str) -> Object:
    command = "ray kuberay-autoscaler --cluster-name $(RAY_CLUSTER_NAME) --cluster-namespace $(RAY_CLUSTER_NAMESPACE)"
    amounts = {"cpu": "500m", "memory": "512Mi"}
    sidecar: Object = {
        "name": "autoscaler",
        "image": options.get("image", image),
        "imagePullPolicy": options.get("imagePullPolicy", "IfNotPresent"),
        "command": ["/bin/bash", "-c", "--"],
        "args": [command],
        "resources": options.get("resources", {"limits": amounts, "requests": amounts}),
        "volumeMounts": list(options.get("volumeMounts", [])),
    }
    set_env(sidecar, "RAY_CLUSTER_NAME", valueFrom=_field("metadata.labels['ray.io/cluster']"))
    set_env(sidecar, "RAY_CLUSTER_NAMESPACE", valueFrom=_field("metadata.namespace"))
    set_env(sidecar, "RAY_HEAD_POD_NAME", valueFrom=_field("metadata.name"))
    set_env(sidecar, "KUBERAY_CRD_VER", "v1")
    set_env(sidecar, "KUBERAY_GEN_AUTOSCALER_START_CMD", command)
    if auth.get("mode") == "token":
        _set_token(sidecar, auth, cluster)
    sidecar["env"] += options.get("env", [])
    if "securityContext" in options:
        sidecar["securityContext"] = options["securityContext"]
    return sidecar


WAIT_FOR_HEAD = """
SECONDS=0
while true; do
  if ray health-check --address {address}:6379 > /dev/null 2>&1; then echo "GCS is ready."; break; fi
  echo "$SECONDS seconds elapsed: Waiting for GCS to be ready."
  sleep 5
done
"""


def pods(service: Object) -> list[Object]:
    """The head pod and one pod of each worker group."""
    return cluster_pods(CLUSTER, service["metadata"]["namespace"], service["spec"]["rayClusterConfig"])


def cluster_pods(name: str, namespace: str, cluster: Mapping[str, Any]) -> list[Object]:
    """The head pod and one pod of each worker group of a RayCluster with this spec."""
    options, auth = cluster.get("autoscalerOptions", {}), cluster.get("authOptions", {})
    redis = cluster.get("gcsFaultToleranceOptions")
    autoscales = cluster.get("enableInTreeAutoscaling", False)
    address = f"{name}-head-svc.{namespace}.svc.cluster.local"

    group = cluster["headGroupSpec"]
    head = _pod(name, "head", "headgroup", group["template"], namespace)
    ray = head["spec"]["containers"][0]
    params = dict(group["rayStartParams"])
    if autoscales:
        params["no-monitor"] = "true"
        head["spec"]["containers"].append(_autoscaler(options, ray["image"], auth, name))
        if options.get("version") == "v2":
            set_env(ray, "RAY_enable_autoscaler_v2", "true")
    if redis:
        set_env(ray, "RAY_REDIS_ADDRESS", redis["redisAddress"])
        set_env(ray, "RAY_external_storage_namespace", "uid")
        if "redisPassword" in redis:
            set_env(ray, "REDIS_PASSWORD", **redis["redisPassword"])
    _finish(head, name, params, auth, address, redis)
    if autoscales:
        for container in (ray, head["spec"]["containers"][-1]):
            _mount_empty_dir(head, container, "ray-logs", "/tmp/ray")
    made = [head]
    for group in cluster["workerGroupSpecs"]:
        worker = _pod(name, "worker", group["groupName"], group["template"], namespace)
        ray = worker["spec"]["containers"][0]
        amounts = {"cpu": "200m", "memory": "256Mi"}
        wait: Object = {
            "name": "wait-gcs-ready",
            "image": ray["image"],
            "imagePullPolicy": ray["imagePullPolicy"],
            "command": ["/bin/bash", "-c", "--"],
            "args": [WAIT_FOR_HEAD.format(address=address)],
            "env": copy.deepcopy(ray["env"]),
            "volumeMounts": copy.deepcopy(ray["volumeMounts"]),
            "resources": {"limits": amounts, "requests": amounts},
        }
        if "securityContext" in ray:
            wait["securityContext"] = copy.deepcopy(ray["securityContext"])
        if auth.get("mode") == "token":
            _set_token(wait, auth, name)
        worker["spec"].setdefault("initContainers", []).append(wait)
        for container in worker["spec"]["initContainers"]:
            set_env(container, "FQ_RAY_IP", address)
            set_env(container, "RAY_IP", address.partition(".")[0])
        params = {"address": f"{address}:6379", **group["rayStartParams"]}
        if group.get("resources"):
            amounts_ = {resource: float(value) for resource, value in group["resources"].items()}
            params["resources"] = f"'{json.dumps(amounts_)}'"
        _finish(worker, name, params, auth, address, redis)
        made.append(worker)
    if autoscales and options.get("version") == "v2":
        for pod in made:
            pod["spec"]["restartPolicy"] = "Never"
    return made


def _finish(
    pod: Object, cluster: str, params: Mapping[str, str], auth: Mapping[str, Any], address: str, redis: Any
) -> None:
    head = pod["metadata"]["labels"]["ray.io/node-type"] == "head"
    ray = pod["spec"]["containers"][0]
    if redis:
        set_env(ray, "RAY_gcs_rpc_server_reconnect_timeout_s", "60" if head else "600")
    if auth.get("mode") == "token":
        _set_token(ray, auth, cluster)
    _mount_empty_dir(pod, ray, "shared-mem", "/dev/shm", "Memory")
    ray["command"] = ["/bin/bash", "-c", "--"]
    command = ray_start(head, params, ray["resources"])
    ray["args"] = [f"ulimit -n 65536; {command}"]
    _set_common_env(ray, head, address, command)


def head_service(name: str, cluster: str, spec: Mapping[str, Any], labels: Mapping[str, str]) -> Object:
    """A headless Service of a cluster's head. Labels of the template replace those of the operator's selector."""
    selector = {
        "ray.io/cluster": cluster,
        "ray.io/node-type": "head",
        "ray.io/identifier": f"{cluster}-head",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    selector |= {key: value for key, value in labels.items() if key in selector}
    ports = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": dict(selector)},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [{"name": port["name"], "port": port["containerPort"]} for port in ports],
        },
    }


def cluster_services(service: Object, cluster: str) -> list[Object]:
    """The Services of a RayService while this cluster is active: the cluster's head, the head, the serving workers."""
    spec, name = service["spec"], service["metadata"]["name"]
    ray = spec["rayClusterConfig"]
    template = ray["headGroupSpec"]["template"]
    made = [
        head_service(f"{cluster}-head-svc", cluster, ray, template["metadata"].get("labels", {})),
        head_service(f"{name}-head-svc", cluster, ray, {}),  # of the RayService; it ignores the template's labels
    ]
    if any(re.match(r"serve(-|$)", port["name"]) for port in template["spec"]["containers"][0]["ports"]):
        serving = copy.deepcopy(spec["serveService"])
        serving["spec"]["selector"] = {"ray.io/cluster": cluster, "ray.io/serve": "true"}
        made.append({"apiVersion": "v1", "kind": "Service", **serving})
    return made


def services(service: Object) -> dict[str, dict[str, str]]:
    """Name to selector of the Services that the operator creates."""
    return {made["metadata"]["name"]: made["spec"]["selector"] for made in cluster_services(service, CLUSTER)}


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) selects these labels."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for term in selector.get("matchExpressions", []):
        present, operator = term["key"] in labels, term["operator"]
        listed = labels.get(term["key"]) in term.get("values", [])
        if not {"In": listed, "NotIn": not listed, "Exists": present, "DoesNotExist": not present}[operator]:
            return False
    return True
