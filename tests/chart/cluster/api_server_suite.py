"""A real API server takes every object of every values file, keeps every field, and takes the upgrade as well.

etcd and kube-apiserver alone, without a node: half a minute. Custom resources are judged by their CRDs, brought down to
what Kubernetes 1.20 can read (no CEL).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_cases import CASES, values_of
from cluster import Cluster, chart_for_old_kubernetes

NAMESPACE = "serving"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="hs-cluster-", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        try:
            made.start(nodes=0)
            made.create_crds()
            made.kubectl("create", "namespace", NAMESPACE)
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def chart(cluster: Cluster) -> Path:
    return chart_for_old_kubernetes(cluster.folder)


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_taken_whole(case: str, cluster: Cluster, chart: Path) -> None:
    """No node runs here, so hooks are left out; what is rendered for them is validated in tests/chart."""
    values = values_of(case)
    words = ("-n", NAMESPACE, "--no-hooks", "--values", "-")
    cluster.helm("install", "demo", str(chart), *words, stdin=json.dumps(values))
    sent = [one for one in yaml.safe_load_all(cluster.helm("get", "manifest", "demo", "-n", NAMESPACE)) if one]
    assert len(sent) >= 5
    for one in sent:
        name = one["metadata"]["name"]
        # In the version that was sent: this server would give an autoscaler in another.
        group, _, version = one["apiVersion"].rpartition("/")
        kind = f"{one['kind']}.{version}.{group}" if group else one["kind"]
        kept = json.loads(cluster.kubectl("get", kind, name, "-n", NAMESPACE, "-o", "json"))
        for part in ("spec", "data"):
            assert missing(one.get(part), kept.get(part)) == [], f"{one['kind']}/{name}"
    changed = {**values, "commonLabels": {"team": "another"}, "commonAnnotations": {"a": "b"}, "drainSeconds": 90}
    cluster.helm("upgrade", "demo", str(chart), *words, stdin=json.dumps(changed))
    cluster.helm("rollback", "demo", "1", "-n", NAMESPACE, "--no-hooks")
    cluster.helm("uninstall", "demo", "-n", NAMESPACE, "--no-hooks")
    kinds = "configmaps,secrets,pvc,serviceaccounts,services,deployments,networkpolicies,poddisruptionbudgets"
    left = cluster.get(f"{kinds},ingresses,httproutes,rayservices,podmonitors,prometheusrules", "-n", NAMESPACE)
    claims = [one["metadata"]["name"] for one in left if one["kind"] == "PersistentVolumeClaim"]
    kept = {(item["kind"], item["metadata"]["name"]) for item in left if item["kind"] != "PersistentVolumeClaim"}
    # KubeRay's cleanup Job for Redis needs the head's account and files after the release is gone.
    redis = values.get("ray", {}).get("redis", {}).get("address")
    assert kept == ({("ConfigMap", "demo-notice"), ("ServiceAccount", "demo-head")} if redis else set())
    for kind, name in kept:
        cluster.kubectl("delete", kind, name, "-n", NAMESPACE)
    assert claims == (["demo-weights"] if values.get("weights", {}).get("cache", {}).get("persistent") else [])
    for claim in claims:
        # Nothing here takes the protection off that a claim has while pods may use it.
        cluster.kubectl("patch", "pvc", claim, "-n", NAMESPACE, "-p", '{"metadata": {"finalizers": null}}')
        cluster.kubectl("delete", "pvc", claim, "-n", NAMESPACE)


def test_settings_change_the_application_of_a_rayservice_alone(cluster: Cluster, chart: Path) -> None:
    values = values_of("rayservice")
    words = ("-n", NAMESPACE, "--no-hooks", "--values", "-")
    cluster.helm("install", "ray", str(chart), *words, stdin=json.dumps(values))
    (before,) = cluster.get("rayservices", "-n", NAMESPACE)
    values["settings"]["engine"]["max_num_seqs"] = 16
    cluster.helm("upgrade", "ray", str(chart), *words, stdin=json.dumps(values))
    (after,) = cluster.get("rayservices", "-n", NAMESPACE)
    assert after["spec"]["rayClusterConfig"] == before["spec"]["rayClusterConfig"]
    assert after["spec"]["serveConfigV2"] != before["spec"]["serveConfigV2"]


def missing(sent: Any, kept: Any, path: str = "") -> list[str]:
    """Paths that were sent and are not stored: fields that the server pruned or changed."""
    if sent is None:
        return []
    if isinstance(sent, dict):
        if not isinstance(kept, dict):
            return [path]
        found = []
        for name, value in sent.items():
            found += missing(value, kept[name], f"{path}.{name}") if name in kept else [f"{path}.{name}"]
        return found
    if isinstance(sent, list):
        if not isinstance(kept, list) or len(sent) != len(kept):
            return [path]
        return [one for index, item in enumerate(sent) for one in missing(item, kept[index], f"{path}[{index}]")]
    return [] if str(sent) == str(kept) else [f"{path}: {sent!r} became {kept!r}"]
