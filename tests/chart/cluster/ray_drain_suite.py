"""A node drain in mode rayservice, `make test-cluster PART=ray-drain`: two nodes, two workers, the chart's budget.

As ray_settings_suite.py. The disruption controller is Kubernetes' own.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from cluster import is_ready
from ray_release import VALUES, RayRelease, ray_release
from release import NAMESPACE

pytestmark = pytest.mark.timeout(600)
SCALING = {"min_replicas": 2, "max_replicas": 2, "downscale_delay_s": 5}
DRAINED = {
    **VALUES,
    "settings": {**VALUES["settings"], "scaling": SCALING},
    "ray": {
        **VALUES["ray"],
        "head": {**VALUES["ray"]["head"], "nodeSelector": {"kubernetes.io/hostname": "n1"}},
        "workerGroups": [{"name": "engine", "replicas": 2, "minReplicas": 2, "maxReplicas": 3}],
    },
}


@pytest.fixture(scope="module")
def demo() -> Iterator[RayRelease]:
    with ray_release(DRAINED, nodes=2) as release:
        yield release


def nodes_of_workers(demo: RayRelease) -> list[str]:
    pods = demo.pods("worker")
    return sorted(
        pod["spec"]["nodeName"] for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
    )


def test_maxunavailable_over_ray_pods_would_block_every_drain(demo: RayRelease) -> None:
    """Why the chart writes a whole number: the same budget with maxUnavailable allows nothing, for ever."""
    demo.cluster.wait("both replicas", lambda: len(demo.replicas()) == len(demo.workers()) == 2, 300)
    assert nodes_of_workers(demo) == ["n1", "n2"]
    demo.cluster.wait("budget", lambda: demo.cluster.disruptions_allowed(NAMESPACE) == 1, 60)
    (budget,) = demo.cluster.get("poddisruptionbudgets", "-n", NAMESPACE)
    worse = {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "worse"}}
    worse["spec"] = {"maxUnavailable": 1, "selector": budget["spec"]["selector"]}
    with demo.cluster.api() as api:
        path = f"/apis/policy/v1beta1/namespaces/{NAMESPACE}/poddisruptionbudgets"
        api.post(path, json=worse).raise_for_status()

        def failed() -> bool:
            events = api.get(f"/api/v1/namespaces/{NAMESPACE}/events").json()["items"]
            reasons = {one["reason"] for one in events if one["involvedObject"]["name"] == "worse"}
            return "CalculateExpectedPodCountFailed" in reasons

        demo.cluster.wait("its failure", failed, 60)
        assert api.get(f"{path}/worse").json()["status"]["disruptionsAllowed"] == 0
        api.delete(f"{path}/worse").raise_for_status()


def test_a_drained_node_moves_its_worker_without_a_failed_request(demo: RayRelease) -> None:
    with demo.traffic() as traffic:
        demo.cluster.kubectl("drain", "n2", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout", "300s")
        assert "n2" not in nodes_of_workers(demo)
        demo.cluster.wait("a second worker on n1", lambda: nodes_of_workers(demo) == ["n1", "n1"], 300)
        demo.cluster.wait("both replicas", lambda: len(demo.replicas()) == 2, 300)
    assert traffic.failures == []


def test_a_second_eviction_waits_for_the_budget(demo: RayRelease) -> None:
    demo.cluster.wait("budget", lambda: demo.cluster.disruptions_allowed(NAMESPACE) == 1, 60)
    first, second = sorted(demo.workers())
    demo.cluster.evict(first, NAMESPACE)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        demo.cluster.evict(second, NAMESPACE)
    assert "disruption budget" in refused.value.response.text
