"""The chart in mode rayservice on a real cluster, with our reconciler in place of KubeRay's operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster import is_ready
from rayservice_operator import APPLICATIONS, Operator
from release import NAMESPACE, Release, running_cluster

VALUES: dict[str, Any] = {
    "mode": "rayservice",
    "startupSeconds": 600,
    "drainSeconds": 20,
    # A replica takes 2 CPUs of Ray, so that each worker has room for one.
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}},
    "settings": {
        "engine": {"max_num_seqs": 8},
        "scaling": {"min_replicas": 1, "max_replicas": 1, "downscale_delay_s": 5},
    },
    "ray": {
        "head": {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "6Gi"}}},
        "autoscaler": {"idleTimeoutSeconds": 20},
        "workerGroups": [{"name": "engine", "replicas": 1, "minReplicas": 1, "maxReplicas": 3}],
    },
}


@dataclass(slots=True)
class RayRelease(Release):
    """The release in mode rayservice.

    Attributes:
        notes: what Helm printed after the installation.
    """

    operator: Operator
    notes: str = ""

    def settings(self, **sections: dict[str, Any]) -> dict[str, Any]:
        """The settings with some of these sections changed."""
        settings: dict[str, Any] = self.values["settings"]
        return {**settings, **{name: {**settings.get(name, {}), **values} for name, values in sections.items()}}

    def active(self) -> str:
        """The RayCluster that serves."""
        status = self.cluster.object("rayservice", "demo", NAMESPACE)["status"]
        name: str = status["activeServiceStatus"]["rayClusterName"]
        return name

    def replicas(self) -> dict[str, int]:
        """Running replicas of the active cluster, with their process ids, as Ray's dashboard lists them."""
        with self.operator.dashboard(self.active()) as dashboard:
            applications = dashboard.get(APPLICATIONS).raise_for_status().json()["applications"]
        replicas = applications["hybridserve"]["deployments"]["engine"]["replicas"]
        return {one["replica_id"]: one["pid"] for one in replicas if one["state"] == "RUNNING"}

    def workers(self) -> set[str]:
        """Names of the worker pods that are ready and not being deleted."""
        pods = self.pods("worker")
        return {pod["metadata"]["name"] for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]}


@contextmanager
def ray_release(values: dict[str, Any] = VALUES, nodes: int = 1) -> Iterator[RayRelease]:
    """A cluster with KubeRay's custom resources and the reconciler, and the release installed."""
    with running_cluster(values, nodes) as release:
        release.cluster.create_crds("ray.io")
        release.cluster.kubectl("create", "namespace", NAMESPACE)
        with Operator(release.cluster, NAMESPACE) as operator:
            made = RayRelease(release.cluster, release.chart, values, operator)
            made.notes = made.install()
            # Helm may be done before the operator has written a status; this is what NOTES say.
            release.cluster.kubectl(
                "-n", NAMESPACE, "wait", "rayservice/demo", "--for=condition=Ready", "--timeout=390s"
            )
            yield made
