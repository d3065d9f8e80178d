"""Pod Security Standard `restricted`, as its admission controller judges it, over pods of any object.

Its verdicts were compared with the real admission of a 1.36 API server on ten pods when the rules were written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def pods(thing: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every pod that an object creates: its name, and its spec with the containers that KubeRay adds."""
    kind, spec = thing["kind"], thing.get("spec", {})
    name = f"{kind}/{thing['metadata']['name']}"
    if kind == "Pod":
        yield name, spec
    elif kind in ("Deployment", "Job", "StatefulSet", "DaemonSet"):
        yield name, spec["template"]["spec"]
    elif kind == "RayService":
        cluster = spec["rayClusterConfig"]
        head = cluster["headGroupSpec"]["template"]["spec"]
        sidecars = []
        if cluster.get("enableInTreeAutoscaling"):
            # The operator gives its sidecar this security context and no other.
            sidecars = [{"name": "autoscaler", **cluster.get("autoscalerOptions", {})}]
        yield f"{name} head", {**head, "containers": [*head["containers"], *sidecars]}
        for group in cluster["workerGroupSpecs"]:
            worker = group["template"]["spec"]
            waits = {**worker["containers"][0], "name": "wait-gcs-ready"}
            yield (
                f"{name} {group['groupName']}",
                {**worker, "initContainers": [waits, *worker.get("initContainers", [])]},
            )


def violations(spec: Mapping[str, Any]) -> list[str]:
    """What `restricted` refuses in a pod's spec."""
    found = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    found += [
        f"volume {volume['name']} is a {kind}"
        for volume in spec.get("volumes", [])
        for kind in set(volume) - {"name"} - VOLUMES
    ]
    pod = spec.get("securityContext", {})
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own = container.get("securityContext", {})
        merged = {**pod, **own}
        name = container["name"]
        if own.get("privileged"):
            found.append(f"{name} is privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name} may gain privileges")
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            found.append(f"{name} keeps capabilities")
        if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name} adds capabilities")
        if merged.get("runAsNonRoot") is not True or merged.get("runAsUser") == 0:
            found.append(f"{name} may run as root")
        if merged.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name} has no seccomp profile")
        if merged.get("procMount", "Default") != "Default":
            found.append(f"{name} unmasks /proc")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            found.append(f"{name} takes a port of the host")
    return found
