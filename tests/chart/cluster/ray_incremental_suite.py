"""Mode rayservice with incremental upgrades, `make test-cluster PART=ray-incremental`: the check comes before traffic.

As ray_upgrade_suite.py; in place of a Gateway the requests choose by the weights that KubeRay would write into its
HTTPRoute. The tests are one story and run in their order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import is_ready
from ray_release import IncrementalRelease, incremental_release
from release import NAMESPACE

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def demo() -> Iterator[IncrementalRelease]:
    with incremental_release() as release:
        yield release


@pytest.fixture(scope="module")
def verify(demo: IncrementalRelease) -> dict[str, Any]:
    return {"reference": demo.record_reference()}


def pending(demo: IncrementalRelease, first: str) -> str:
    demo.cluster.wait("second cluster", lambda: len(demo.clusters()) == 2, 60)
    (second,) = demo.clusters() - {first}
    return second


def test_an_engine_with_wrong_states_gets_no_traffic(demo: IncrementalRelease, verify: dict[str, Any]) -> None:
    first = demo.active()
    with demo.traffic() as traffic:
        demo.upgrade(
            settings=demo.settings(engine={"mamba_ssm_cache_dtype": "bfloat16"}),
            ray={**demo.values["ray"], "startAttempts": 1},
            verify=verify,
        )
        broken = pending(demo, first)
        demo.cluster.wait("refusal", lambda: demo.failure(broken) != "", 300)
        assert "log-probabilities are wrong" in demo.failure(broken)
        time.sleep(15)  # longer than a step
        assert demo.operator.moves == [(100, 0)]
        assert {pod["metadata"]["labels"]["ray.io/cluster"] for pod in demo.pods("worker") if is_ready(pod)} == {first}
        demo.cluster.helm("rollback", "demo", "-n", NAMESPACE, "--timeout", "120s")
        demo.cluster.wait("end of the broken cluster", lambda: demo.clusters() == {first}, 180)
    assert demo.operator.moves == [(100, 0)]
    assert traffic.failures == []
    assert len(traffic.answers) > 20


def test_a_right_engine_gets_the_traffic_in_steps(demo: IncrementalRelease, verify: dict[str, Any]) -> None:
    first = demo.active()
    demo.operator.moves.clear()
    with demo.traffic() as traffic:
        demo.upgrade(settings=demo.settings(engine={"max_num_seqs": 6}), verify=verify)
        second = pending(demo, first)
        demo.cluster.wait("last step", lambda: demo.active() == second, 400)
        demo.cluster.wait("end of the old cluster", lambda: demo.clusters() == {second}, 180)
        time.sleep(5)
    assert demo.operator.moves == [(100, 0), (75, 25), (50, 50), (25, 75), (0, 100)]
    assert traffic.failures == []


def test_a_replica_with_wrong_states_does_not_replace_the_right_one(
    demo: IncrementalRelease, verify: dict[str, Any]
) -> None:
    """The cluster stays when only settings change: Ray Serve starts the new replica first, which fails its check."""
    cluster, before = demo.active(), demo.replicas()
    settings = demo.settings(engine={"max_num_seqs": 6, "mamba_ssm_cache_dtype": "bfloat16"})
    with demo.traffic() as traffic:
        demo.upgrade(settings=settings, ray={**demo.values["ray"], "startAttempts": 1}, verify=verify)
        demo.cluster.wait("refusal", lambda: demo.failure(cluster) != "", 400)
        assert "log-probabilities are wrong" in demo.failure(cluster)
        assert demo.clusters() == {cluster}
        assert demo.replicas() == before
    assert traffic.failures == []
    assert len(traffic.answers) > 20
