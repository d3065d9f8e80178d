"""A reconciler that does for one namespace what the KubeRay operator 1.7 does, on the suite's real API server.

It follows ray-operator v1.7.0: rayservice_controller.go (reconcileRayCluster, reconcileServe, reconcileServices,
promotion, calculateConditions, cleanUpRayClusterInstance) and raycluster_controller.go (reconcilePods, shouldDeletePod,
the autoscaler's Role, the token's Secret). Pods, Services and decisions come from kuberay.py and kuberay_decision.py.
It is not the operator: its watches, events and recovery from a restart of its own are not here.
"""

from __future__ import annotations

import base64
import secrets
import threading
import time
import traceback
from typing import Any, Self

import httpx
import yaml
from chart_helm import Object
from cluster import Cluster, is_ready
from kuberay import cluster_pods, cluster_services
from kuberay_decision import Effect, cluster_effect, problems, spec_hash

RAY = "/apis/ray.io/v1"
MERGE = {"Content-Type": "application/merge-patch+json"}
APPLICATIONS = "/api/serve/applications/"
HASH, GROUPS = "ray.io/hash-without-replicas-and-workers-to-delete", "ray.io/num-worker-groups"


class Operator:
    """Reconciles the RayServices of one namespace about once a second, in a thread.

    Attributes:
        events: what was done, with the second of it, as `kubectl get events` would show.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.events: list[str] = []
        self._cluster = cluster
        self._namespace = namespace
        self._api = cluster.api()
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._submitted: dict[str, str] = {}  # cluster to the serveConfigV2 that its dashboard got
        self._deleted_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)
        self._api.close()

    def _run(self) -> None:
        while not self._ended.wait(1):
            try:
                for ray in self._list("rayclusters"):
                    if "deletionTimestamp" not in ray["metadata"]:
                        self._reconcile_cluster(ray)
                self._cluster.name_services()
                for service in self._list("rayservices"):
                    self._reconcile_service(service)
            except (httpx.HTTPError, KeyError) as error:  # the next turn tries again, as a controller does
                self._event(f"retry after {error!r}")
            except Exception:
                self._event(traceback.format_exc())

    def _event(self, text: str) -> None:
        if text.startswith("deletes") and self.events and self.events[-1].endswith(f": {text}"):
            return  # it is asked for again until the object is gone
        self.events.append(f"{time.monotonic() - self._started:.0f} s: {text}")
        print(self.events[-1], flush=True)

    # RayService

    def _reconcile_service(self, service: Object) -> None:
        if refused := problems(service):
            self._event(f"{service['metadata']['name']} is refused: {refused}")
            return
        active, pending, clusters = self._find_clusters(service)
        # While a second cluster starts, the first one's applications are left alone.
        target = pending or active
        keeps = pending or (active in clusters and self._effect(service, clusters[active]) is not Effect.NEW_CLUSTER)
        if keeps and self._reconcile_serve(service, clusters[target]):
            self._reconcile_services(service, target)
            active, pending = target, ""
        newest = pending or active
        if not newest or self._effect(service, clusters[newest]) is Effect.NEW_CLUSTER:
            pending = self._new_name(service)
        self._write_status(service, active, pending)
        self._clean_up(service, [one for one in clusters if one not in (active, pending)])

    def _find_clusters(self, service: Object) -> tuple[str, str, dict[str, Object]]:
        """Names of the active and the pending cluster, and all clusters; the pending one is made, both are updated."""
        status = service.get("status", {})
        active = status.get("activeServiceStatus", {}).get("rayClusterName", "")
        pending = status.get("pendingServiceStatus", {}).get("rayClusterName", "")
        clusters = {ray["metadata"]["name"]: ray for ray in self._list("rayclusters")}
        if pending and pending not in clusters:
            clusters[pending] = self._create("rayclusters", self._ray_cluster(service, pending))
        if active in clusters and not pending and self._effect(service, clusters[active]) is Effect.CLUSTER_UPDATE:
            self._replace(service, clusters[active])
        if pending in clusters and self._effect(service, clusters[pending]) is Effect.CLUSTER_UPDATE:
            self._replace(service, clusters[pending])
        return active, pending, clusters

    def _new_name(self, service: Object) -> str:
        name = f"{service['metadata']['name']}-{secrets.token_hex(3)}"
        self._event(f"prepares the cluster {name}")
        return name

    def _effect(self, service: Object, ray: Object) -> Effect | None:
        notes = ray["metadata"]["annotations"]
        return cluster_effect(notes[HASH], int(notes[GROUPS]), service)

    def _ray_cluster(self, service: Object, name: str) -> Object:
        spec = service["spec"]["rayClusterConfig"]
        notes = {HASH: spec_hash(spec), GROUPS: str(len(spec["workerGroupSpecs"]))}
        meta = {
            "name": name,
            "annotations": notes,
            "labels": {"ray.io/originated-from-cr-name": service["metadata"]["name"]},
        }
        meta["ownerReferences"] = [owner(service)]
        return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta, "spec": spec}

    def _replace(self, service: Object, ray: Object) -> None:
        made = self._ray_cluster(service, ray["metadata"]["name"])
        change = {"spec": made["spec"], "metadata": {"annotations": made["metadata"]["annotations"]}}
        self._patch(f"{self._path('rayclusters')}/{ray['metadata']['name']}", change)
        self._event(f"updates the cluster {ray['metadata']['name']}")

    def _reconcile_serve(self, service: Object, ray: Object) -> bool:
        """Bring serveConfigV2 to the cluster's dashboard; True when every application runs."""
        name, wanted = ray["metadata"]["name"], service["spec"]["serveConfigV2"]
        if not is_ready(self.head(name)):
            return False
        with self.dashboard(name) as dashboard:
            applications = dashboard.get(APPLICATIONS).raise_for_status().json()["applications"]
            if self._submitted.get(name) != wanted or not applications:
                dashboard.put(APPLICATIONS, json=yaml.safe_load(wanted)).raise_for_status()
                self._submitted[name] = wanted
                self._event(f"submits serveConfigV2 to {name}")
        return bool(applications) and all(one["status"] == "RUNNING" for one in applications.values())

    def head(self, cluster: str) -> Object:
        """The cluster's head pod; one that is nowhere ready when it does not exist yet."""
        heads = self._list("pods", labelSelector=f"ray.io/cluster={cluster},ray.io/node-type=head")
        return heads[0] if heads else {"status": {}}

    def dashboard(self, cluster: str) -> httpx.Client:
        """A client of the cluster's dashboard, with its token."""
        ray = self._api.get(f"{self._path('rayclusters')}/{cluster}").raise_for_status().json()
        headers = {"Authorization": f"Bearer {token}"} if (token := self._token(ray)) else {}
        url = f"http://{self.head(cluster)['status']['podIP']}:8265"
        return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)

    def _reconcile_services(self, service: Object, active: str) -> None:
        """Point the RayService's Services at this cluster; they change only when the cluster does."""
        for wanted in self._services(service, active):
            path = self._path("services")
            found = self._api.get(f"{path}/{wanted['metadata']['name']}")
            if found.status_code == 404:
                wanted["metadata"]["ownerReferences"] = [owner(service)]
                self._api.post(path, json=wanted).raise_for_status()
            elif found.raise_for_status().json()["spec"]["selector"]["ray.io/cluster"] != active:
                self._patch(f"{path}/{wanted['metadata']['name']}", {"spec": {"selector": wanted["spec"]["selector"]}})
                self._event(f"switches {wanted['metadata']['name']} to {active}")

    def _services(self, service: Object, active: str) -> list[Object]:
        return cluster_services(service, active)[1:]

    def _write_status(self, service: Object, active: str, pending: str, serving: str = "") -> None:
        name = serving or service["spec"]["serveService"]["metadata"]["name"]
        subsets = self._api.get(f"{self._path('endpoints')}/{name}").json().get("subsets") or []
        endpoints = sum(len(each.get("addresses", [])) for each in subsets)
        old = service.get("status", {})
        ready = "True" if endpoints else "False"
        changed = [one["lastTransitionTime"] for one in old.get("conditions", []) if one["status"] == ready]
        condition = {
            "type": "Ready",
            "status": ready,
            "reason": "NonZeroServeEndpoints" if endpoints else "ZeroServeEndpoints",
            "message": f"{endpoints} serve endpoints",
            "lastTransitionTime": (changed or [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())])[0],
        }
        # This old API server takes an empty string for null.
        status = {
            "activeServiceStatus": {"rayClusterName": active} if active else None,
            "pendingServiceStatus": {"rayClusterName": pending} if pending else None,
            "numServeEndpoints": endpoints or None,
            "observedGeneration": service["metadata"]["generation"],
            "conditions": [condition],
        }
        if {name: old.get(name) for name in status} != status:
            self._patch(f"{self._path('rayservices')}/{service['metadata']['name']}/status", {"status": status})

    def _clean_up(self, service: Object, left: list[str]) -> None:
        delay = service["spec"].get("rayClusterDeletionDelaySeconds", 60)
        for name in left:
            if time.monotonic() > self._deleted_at.setdefault(name, time.monotonic() + delay):
                self._delete(f"{self._path('rayclusters')}/{name}")
                self._event(f"deletes the cluster {name}")

    # RayCluster

    def _reconcile_cluster(self, ray: Object) -> None:
        name, spec = ray["metadata"]["name"], ray["spec"]
        self._create_missing("secrets", self._token_secret(ray))
        self._create_missing("services", self._head_service(ray))
        if spec.get("enableInTreeAutoscaling"):
            account = spec["headGroupSpec"]["template"]["spec"]["serviceAccountName"]
            for kind, made in zip(("roles", "rolebindings"), _access(name, self._namespace, account), strict=True):
                self._create_missing(kind, made | {"metadata": {"name": name, "ownerReferences": [owner(ray)]}})
        existing = self._pods(name)  # a pod that is being deleted counts until it is gone
        if gone := [pod for pod in existing if _has_ended(pod)]:
            for pod in gone:
                self._delete_pod(pod["metadata"]["name"])
            return  # none is created in the turn that deletes
        head, *workers = cluster_pods(name, self._namespace, spec)
        if not any(pod["metadata"]["labels"]["ray.io/node-type"] == "head" for pod in existing):
            self._create_pod(ray, head, f"{name}-head-")
        for group, worker in zip(spec["workerGroupSpecs"], workers, strict=True):
            running = {
                pod["metadata"]["name"]
                for pod in existing
                if pod["metadata"]["labels"]["ray.io/group"] == group["groupName"]
            }
            unwanted = running & set(group.get("scaleStrategy", {}).get("workersToDelete") or [])
            for pod in unwanted:
                self._delete_pod(pod)
            replicas = min(max(group.get("replicas", 0), group["minReplicas"]), group["maxReplicas"])
            # Too many pods are left to the autoscaler.
            for _ in range(replicas - len(running - unwanted)):
                self._create_pod(ray, worker, f"{name}-{group['groupName']}-worker-")

    def _head_service(self, ray: Object) -> Object:
        service = {"metadata": {"name": ""}, "spec": {"rayClusterConfig": ray["spec"], "serveService": {"spec": {}}}}
        made = cluster_services(service, ray["metadata"]["name"])[0]
        made["metadata"]["ownerReferences"] = [owner(ray)]
        return made

    def _token_secret(self, ray: Object) -> Object | None:
        auth = ray["spec"].get("authOptions", {})
        if auth.get("mode") != "token" or auth.get("secretName"):
            return None
        token = base64.b64encode(secrets.token_bytes(32)).decode()
        meta = {"name": ray["metadata"]["name"], "ownerReferences": [owner(ray)]}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"auth_token": token}}

    def _token(self, ray: Object) -> str | None:
        auth = ray["spec"].get("authOptions", {})
        if auth.get("mode") != "token":
            return None
        name = auth.get("secretName") or ray["metadata"]["name"]
        secret = self._api.get(f"{self._path('secrets')}/{name}").raise_for_status().json()
        return base64.b64decode(secret["data"]["auth_token"]).decode()

    def _create_pod(self, ray: Object, pod: Object, prefix: str) -> None:
        pod["metadata"] |= {"name": prefix + secrets.token_hex(3), "ownerReferences": [owner(ray)]}
        self._create("pods", pod)

    def _delete_pod(self, name: str) -> None:
        self._delete(f"{self._path('pods')}/{name}")
        self._event(f"deletes the pod {name}")

    # API server

    def _path(self, kind: str) -> str:
        group = {"rayservices": RAY, "rayclusters": RAY}.get(kind, "/api/v1")
        group = "/apis/rbac.authorization.k8s.io/v1" if kind.startswith("role") else group
        return f"{group}/namespaces/{self._namespace}/{kind}"

    def _list(self, kind: str, **parameters: str) -> list[Object]:
        items: list[Object] = self._api.get(self._path(kind), params=parameters).raise_for_status().json()["items"]
        return items

    def _pods(self, cluster: str) -> list[Object]:
        return self._list("pods", labelSelector=f"ray.io/cluster={cluster}")

    def _create(self, kind: str, made: Object) -> Object:
        answer = self._api.post(self._path(kind), json=made)
        if answer.is_error:
            raise httpx.HTTPError(f"{kind} {made['metadata']['name']}: {answer.text[:500]}")
        self._event(f"creates {made['kind']} {made['metadata']['name']}")
        created: Object = answer.json()
        return created

    def _create_missing(self, kind: str, made: Object | None) -> None:
        if made and self._api.get(f"{self._path(kind)}/{made['metadata']['name']}").status_code == 404:
            self._create(kind, made)

    def _patch(self, path: str, change: Any) -> None:
        answer = self._api.patch(path, json=change, headers=MERGE)
        if answer.is_error:
            raise httpx.HTTPError(f"{path}: {answer.text[:500]}")

    def _delete(self, path: str) -> None:
        answer = self._api.delete(path, params={"propagationPolicy": "Background"})
        if answer.status_code != 404:
            answer.raise_for_status()


def owner(one: Object) -> Object:
    meta = one["metadata"]
    return {
        "apiVersion": "ray.io/v1",
        "kind": one.get("kind") or ("RayService" if "serveConfigV2" in one["spec"] else "RayCluster"),
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _access(cluster: str, namespace: str, account: str) -> tuple[Object, Object]:
    """The Role of the autoscaler, and its binding to the head's account."""
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
        {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
    ]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    return (
        {"apiVersion": f"{group}/v1", "kind": "Role", "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "subjects": [subject],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": cluster},
        },
    )


def _has_ended(pod: Object) -> bool:
    """Whether the operator deletes this pod: it has ended, or its Ray container has and may not start again."""
    if pod["status"].get("phase") in ("Failed", "Succeeded"):
        return True
    ray = pod["spec"]["containers"][0]["name"]
    states = {one["name"]: one["state"] for one in pod["status"].get("containerStatuses", [])}
    return pod["spec"].get("restartPolicy") == "Never" and "terminated" in states.get(ray, {})
