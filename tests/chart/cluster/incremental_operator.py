"""The reconciler of rayservice_operator.py for `ray.upgradeStrategy: NewClusterWithIncrementalUpgrade`.

The order of a turn is that of Reconcile in KubeRay 1.7. In place of an HTTPRoute and a Gateway, `routes` has the
weights, and `address` chooses by them.
"""

from __future__ import annotations

import random
import time

import yaml
from chart_helm import Object
from cluster import Cluster, is_ready
from kuberay import cluster_services
from kuberay_decision import Effect, problems, spec_hash
from kuberay_incremental import Part, Upgrade
from rayservice_operator import APPLICATIONS, HASH, Operator, owner


class IncrementalOperator(Operator):
    """One RayService.

    Attributes:
        routes: name of each cluster's Service, and the percentage of the requests that go to it.
        moves: the weights of the active and the pending cluster, each time they changed.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        super().__init__(cluster, namespace)
        self.routes: dict[str, int] = {}
        self.moves: list[tuple[int, int]] = []
        self._upgrade = Upgrade()

    def address(self) -> str:
        """The URL for one request, as a Gateway chooses it."""
        (name,) = random.choices(list(self.routes), list(self.routes.values()))
        service = self._api.get(f"{self._path('services')}/{name}").raise_for_status().json()
        return f"http://{service['spec']['clusterIP']}:8000"

    def _reconcile_service(self, service: Object) -> None:
        if refused := problems(service):
            self._event(f"{service['metadata']['name']} is refused: {refused}")
            return
        active, pending, clusters = self._find_clusters(service)
        upgrade, upgrading, now_s = self._upgrade, bool(active and pending), time.monotonic()
        options = service["spec"]["upgradeStrategy"]["clusterUpgradeOptions"]
        upgrade.step, upgrade.surge = options["stepSizePercent"], options["maxSurgePercent"]
        upgrade.interval_s = options["intervalSeconds"]
        if upgrading:
            made_of = clusters[pending]["metadata"]["annotations"][HASH]
            upgrade.rollback = spec_hash(service["spec"]["rayClusterConfig"]) != made_of
        keeps = upgrading or (active and self._effect(service, clusters[active]) is not Effect.NEW_CLUSTER)
        pending_ready = bool(pending) and self._serve(service, clusters[pending], upgrade.pending, upgrading)
        active_ready = bool(keeps and active) and self._serve(service, clusters[active], upgrade.active, upgrading)
        for name in filter(None, (active, pending)):
            self._create_missing("services", _serve_service(clusters[name]))
        if active:
            weights = upgrade.weights(pending_ready, now_s)
            self._route(active, pending, weights)
            if pending_ready or active_ready:
                upgrade.note_traffic(weights, now_s)
        if pending_ready or active_ready:
            self._reconcile_services(service, pending if pending_ready and not upgrading else active)
            if upgrade.is_complete() if upgrading else pending:
                self._event(f"promotes {pending}")
                active, pending, upgrade.active, upgrade.pending = pending, "", upgrade.pending, Part()
        if pending and upgrade.is_rolled_back(is_ready(self.head(pending))):
            self._event(f"gives {pending} up")
            pending, upgrade.pending, upgrade.rollback = "", Part(), False
        newest = pending or active
        if not upgrade.rollback and (not newest or self._effect(service, clusters[newest]) is Effect.NEW_CLUSTER):
            pending, upgrade.pending = self._new_name(service), Part(0 if active else 100)
        self._write_status(service, active, pending, serving=f"{active}-serve-svc")
        self._clean_up(service, [one for one in clusters if one not in (active, pending)])

    def _route(self, active: str, pending: str, weights: tuple[int, int]) -> None:
        names = [f"{name}-serve-svc" for name in (active, pending) if name]
        self.routes = dict(zip(names, weights, strict=False))
        if pending and weights != (self.moves or [None])[-1]:
            self.moves.append(weights)
            self._event(f"routes {self.routes}")

    def _serve(self, service: Object, ray: Object, part: Part, upgrading: bool) -> bool:
        """Bring serveConfigV2 and the capacity to the cluster's dashboard; True when every application runs."""
        name, wanted, is_active = (
            ray["metadata"]["name"],
            service["spec"]["serveConfigV2"],
            part is self._upgrade.active,
        )
        if not is_ready(self.head(name)):
            return False
        with self.dashboard(name) as dashboard:
            applications = dashboard.get(APPLICATIONS).raise_for_status().json()["applications"]
            outdated = self._submitted.get(name) != wanted or not applications
            # The goal is not for the active cluster in an upgrade, and not for the pending one in a rollback.
            if outdated and not (upgrading and is_active is not self._upgrade.rollback):
                capacity = {} if part.capacity is None else {"target_capacity": part.capacity}
                dashboard.put(APPLICATIONS, json=yaml.safe_load(wanted) | capacity).raise_for_status()
                self._submitted[name] = wanted
                self._event(f"submits serveConfigV2 to {name} {capacity}")
            if upgrading and (goal := self._upgrade.new_capacity(is_active)) is not None:
                config = yaml.safe_load(self._submitted.get(name, wanted)) | {"target_capacity": goal}
                dashboard.put(APPLICATIONS, json=config).raise_for_status()
                part.capacity = goal
                self._event(f"sets target_capacity {goal} at {name}")
        return bool(applications) and all(one["status"] == "RUNNING" for one in applications.values())

    def _services(self, service: Object, active: str) -> list[Object]:
        return cluster_services(service, active)[1:2]  # the head's; each cluster has a Service of its workers


def _serve_service(ray: Object) -> Object:
    """The Service of one cluster's serving workers."""
    name = ray["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{name}-serve-svc", "ownerReferences": [owner(ray)]},
        "spec": {
            "selector": {"ray.io/cluster": name, "ray.io/serve": "true"},
            "ports": [{"name": "serve", "port": 8000}],
        },
    }
