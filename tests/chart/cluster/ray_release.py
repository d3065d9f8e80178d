"""The chart in mode rayservice on a real cluster, with our reconciler in place of KubeRay's operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from cluster import is_ready
from incremental_operator import IncrementalOperator
from rayservice_operator import APPLICATIONS, Operator
from release import NAMESPACE, VERIFY_ROUTES, Release, running_cluster
from traffic import Traffic

VALUES: dict[str, Any] = {
    "mode": "rayservice",
    "startupSeconds": 600,
    "drainSeconds": 20,
    # A replica takes 2 CPUs of Ray, so that each worker has room for one.
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}},
    "settings": {
        "engine": {"max_num_seqs": 8},
        "access": {"open_routes": VERIFY_ROUTES},
        "scaling": {"min_replicas": 1, "max_replicas": 1, "downscale_delay_s": 5},
    },
    "ray": {
        "head": {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "6Gi"}}},
        "autoscaler": {"idleTimeoutSeconds": 20},
        "workerGroups": [{"name": "engine", "replicas": 1, "minReplicas": 1, "maxReplicas": 3}],
    },
}


# Without the API server's Gateway API: IncrementalOperator's routes take the place of a Gateway.
INCREMENTAL: dict[str, Any] = {
    **VALUES,
    "networkPolicy": {"clients": [{"podSelector": {}}]},
    "ray": {
        **VALUES["ray"],
        "upgradeStrategy": "NewClusterWithIncrementalUpgrade",
        "incrementalUpgrade": {
            "gatewayClassName": "none",
            "stepSizePercent": 25,
            "intervalSeconds": 10,
            "maxSurgePercent": 100,
        },
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

    def clusters(self) -> set[str]:
        """Names of the RayClusters."""
        return {ray["metadata"]["name"] for ray in self.cluster.get("rayclusters", "-n", NAMESPACE)}

    def active(self) -> str:
        """The RayCluster that serves."""
        status = self.cluster.object("rayservice", "demo", NAMESPACE)["status"]
        name: str = status["activeServiceStatus"]["rayClusterName"]
        return name

    def failure(self, cluster: str) -> str:
        """Why Ray Serve gave up starting the engine of this RayCluster; empty while it has not."""
        if not is_ready(self.operator.head(cluster)):
            return ""
        try:
            with self.operator.dashboard(cluster) as dashboard:
                applications = dashboard.get(APPLICATIONS).raise_for_status().json()["applications"]
        except httpx.HTTPError:  # the dashboard starts after the head
            return ""
        if not applications or applications["hybridserve"]["status"] not in ("DEPLOY_FAILED", "UNHEALTHY"):
            return ""
        message: str = applications["hybridserve"]["deployments"]["engine"]["message"]
        return message

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


@dataclass(slots=True)
class IncrementalRelease(RayRelease):
    """The release with incremental upgrades: no Service of its own, and requests that go where the routes say."""

    operator: IncrementalOperator

    def url(self, name: str = "") -> str:
        return f"http://{self.service(f'{self.active()}-serve-svc')['spec']['clusterIP']}:8000"

    def traffic(self) -> Traffic:
        return Traffic(self.operator.address)


@contextmanager
def incremental_release() -> Iterator[IncrementalRelease]:
    """As `ray_release`, with incremental upgrades."""
    with running_cluster(INCREMENTAL) as release:
        _prepare(release)
        with IncrementalOperator(release.cluster, NAMESPACE) as operator:
            made = IncrementalRelease(release.cluster, release.chart, INCREMENTAL, operator)
            _install(made)
            yield made


@contextmanager
def ray_release(values: dict[str, Any] = VALUES, nodes: int = 1) -> Iterator[RayRelease]:
    """A cluster with KubeRay's custom resources and the reconciler, and the release installed."""
    with running_cluster(values, nodes) as release:
        _prepare(release)
        with Operator(release.cluster, NAMESPACE) as operator:
            made = RayRelease(release.cluster, release.chart, values, operator)
            _install(made)
            yield made


def _prepare(release: Release) -> None:
    release.cluster.create_crds("ray.io")
    release.cluster.kubectl("create", "namespace", NAMESPACE)


def _install(made: RayRelease) -> None:
    made.notes = made.install()
    # Helm may be done before the operator has written a status; this is what NOTES say.
    made.cluster.kubectl("-n", NAMESPACE, "wait", "rayservice/demo", "--for=condition=Ready", "--timeout=390s")
