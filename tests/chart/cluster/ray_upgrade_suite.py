"""Mode rayservice on a real cluster, `make test-cluster PART=ray-upgrade`: new RayCluster, resize, rollback, uninstall.

As ray_settings_suite.py; the tests are one story and run in their order.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest
from cluster import is_ready
from ray_release import RayRelease, ray_release
from release import NAMESPACE

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def demo() -> Iterator[RayRelease]:
    with ray_release() as release:
        yield release


def switch(demo: RayRelease, first: str) -> None:
    """Wait until another cluster than this one serves alone."""
    demo.cluster.wait("second cluster", lambda: len(demo.clusters()) == 2, 60)
    (second,) = demo.clusters() - {first}
    demo.cluster.wait("switch", lambda: demo.active() == second, 300)
    assert first in demo.clusters()  # it stays for the requests that it has
    assert demo.service("demo-ray")["spec"]["selector"]["ray.io/cluster"] == second
    assert demo.service("demo-head-svc")["spec"]["selector"]["ray.io/cluster"] == second
    demo.cluster.wait("end of the old cluster", lambda: demo.clusters() == {second}, 120)


def test_a_changed_pod_starts_a_second_cluster_and_switches(demo: RayRelease) -> None:
    first = demo.active()
    with demo.traffic() as traffic:
        demo.upgrade(podAnnotations={"example.com/change": "1"}, settings=demo.settings(engine={"max_num_seqs": 6}))
        switch(demo, first)
        demo.cluster.wait("end of the old pods", lambda: len(demo.pods("head") + demo.pods("worker")) == 2, 120)
        time.sleep(5)
    assert traffic.failures == []


def test_changed_bounds_apply_by_the_command_of_the_notes(demo: RayRelease) -> None:
    group = {**demo.values["ray"]["workerGroups"][0], "maxReplicas": 2}
    notes = demo.upgrade(
        podAnnotations={"example.com/change": "1"},
        settings=demo.settings(engine={"max_num_seqs": 6}),
        ray={**demo.values["ray"], "workerGroups": [group]},
    )

    def most() -> int:
        (ray,) = demo.cluster.get("rayclusters", "-n", NAMESPACE)
        bound: int = ray["spec"]["workerGroupSpecs"][0]["maxReplicas"]
        return bound

    time.sleep(5)
    assert most() == 3
    (change,) = re.findall(r"patch raycluster \$CLUSTER --type json -p '(.*)'", notes)
    demo.cluster.kubectl("-n", NAMESPACE, "patch", "raycluster", demo.active(), "--type", "json", "-p", change)
    assert most() == 2


def test_rollback_switches_back_under_traffic(demo: RayRelease) -> None:
    first = demo.active()
    with demo.traffic() as traffic:
        demo.cluster.helm("rollback", "demo", "1", "-n", NAMESPACE, "--timeout", "120s")
        switch(demo, first)
        demo.cluster.wait("end of the old pods", lambda: len(demo.pods("head") + demo.pods("worker")) == 2, 120)
        time.sleep(5)
    assert traffic.failures == []
    (worker,) = demo.pods("worker")
    assert "example.com/change" not in worker["metadata"].get("annotations", {})


def test_an_engine_with_wrong_states_gets_no_traffic(demo: RayRelease) -> None:
    """Its cluster starts beside the serving one and fails the check; `helm test` fails, and the rollback ends it."""
    first, reference = demo.active(), demo.record_reference()
    with demo.traffic() as traffic:
        demo.upgrade(
            settings=demo.settings(engine={"mamba_ssm_cache_dtype": "bfloat16"}),
            ray={**demo.values["ray"], "startAttempts": 1},
            verify={"reference": reference},
            test={"deadlineSeconds": 60},
        )
        demo.cluster.wait("second cluster", lambda: len(demo.clusters()) == 2, 60)
        (broken,) = demo.clusters() - {first}
        demo.cluster.wait("refusal", lambda: demo.failure(broken) != "", 300)
        assert "log-probabilities are wrong" in demo.failure(broken)
        demo.check_helm_test_fails(reference)
        assert demo.active() == first
        for service in ("demo-ray", "demo-head-svc"):
            assert demo.service(service)["spec"]["selector"]["ray.io/cluster"] == first
        ready = {pod["metadata"]["labels"]["ray.io/cluster"] for pod in demo.pods("worker") if is_ready(pod)}
        assert ready == {first}  # the release's own Service has the ready workers of every cluster
        demo.cluster.helm("rollback", "demo", "-n", NAMESPACE, "--timeout", "120s")
        demo.cluster.wait("end of the broken cluster", lambda: broken not in demo.clusters(), 120)
        switch(demo, first)
    assert traffic.failures == []
    assert len(traffic.answers) > 20


def test_uninstall_leaves_nothing(demo: RayRelease) -> None:
    demo.cluster.helm("uninstall", "demo", "-n", NAMESPACE, "--wait", "--timeout", "120s")
    demo.cluster.wait("end of the pods", lambda: not demo.pods("head") + demo.pods("worker"), 120)
    assert demo.leftovers() == []
    assert demo.clusters() == set()
    with pytest.raises(subprocess.CalledProcessError):
        demo.service("demo-ray")
