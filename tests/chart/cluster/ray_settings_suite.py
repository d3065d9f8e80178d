"""Mode rayservice on a real cluster, `make test-cluster PART=ray-settings`: install, settings, Ray's autoscaler.

The pods are what kuberay.py projects, run by a real kubelet: `ray start` head and workers, Ray's own autoscaler beside
the head as a client of the API server, token, probes, read-only root. The tests are one story and run in their order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray_release import RayRelease, ray_release
from release import NAMESPACE, check_process_is_restricted

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def demo() -> Iterator[RayRelease]:
    with ray_release() as release:
        yield release


def test_install_waits_until_it_serves(demo: RayRelease) -> None:
    assert "STATUS: deployed" in demo.notes
    assert demo.chat().status_code == 200
    assert httpx.get(f"{demo.url('demo-ray')}/v1/models", timeout=30).json()["data"][0]["id"] == "demo"
    assert len(demo.workers()) == len(demo.replicas()) == 1


def test_the_worker_process_is_restricted(demo: RayRelease) -> None:
    (worker,) = demo.pods("worker")
    check_process_is_restricted(demo.cluster, worker)


def test_the_dashboard_needs_the_token(demo: RayRelease) -> None:
    address = demo.operator.head(demo.active())["status"]["podIP"]
    assert httpx.get(f"http://{address}:8265/api/serve/applications/", timeout=30).status_code in (401, 403)


def test_engine_log_lines_reach_the_container_log(demo: RayRelease) -> None:
    """The API server of this cluster cannot ask the kubelet, so the same file is read through docker."""
    (worker,) = demo.pods("worker")
    (status,) = worker["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("docker://")
    log = Path(demo.cluster.docker("inspect", "--format", "{{.LogPath}}", container).strip())
    assert "event=request" in log.read_text()


def test_helm_test_passes(demo: RayRelease) -> None:
    said = demo.cluster.helm("test", "demo", "-n", NAMESPACE, "--timeout", "180s")
    assert "Phase:          Succeeded" in said


def test_live_settings_change_in_the_running_replica(demo: RayRelease) -> None:
    replicas, pods = demo.replicas(), demo.uids("worker")
    assert demo.chat(n=2).status_code == 200
    with demo.traffic() as traffic:
        demo.upgrade(settings=demo.settings(access={"max_choices": 1}, telemetry={"log_level": "debug"}))
        demo.cluster.wait("new limit", lambda: demo.chat(n=2).status_code == 400, 60)
    assert traffic.failures == []
    assert len(traffic.answers) > 5
    assert (demo.replicas(), demo.uids("worker")) == (replicas, pods)


def test_scale_to_two_and_back_by_rays_autoscaler(demo: RayRelease) -> None:
    (replica,) = demo.replicas()
    (worker,) = demo.workers()
    with demo.traffic() as traffic:
        demo.upgrade(settings=demo.settings(scaling={"min_replicas": 2, "max_replicas": 2}))
        demo.cluster.wait("second replica", lambda: len(demo.replicas()) == len(demo.workers()) == 2, 300)
        assert {replica} < demo.replicas().keys()
        assert {worker} < demo.workers()
        demo.upgrade(settings=demo.settings())
        demo.cluster.wait("removal of the second", lambda: len(demo.pods("worker")) == len(demo.workers()) == 1, 240)
    assert traffic.failures == []
    assert len(demo.replicas()) == 1


def test_a_changed_engine_setting_replaces_the_replica(demo: RayRelease) -> None:
    """Ray Serve starts the new replica first, on a worker that the autoscaler adds for it."""
    before, head = demo.replicas(), demo.uids("head")
    with demo.traffic() as traffic:
        demo.upgrade(settings=demo.settings(engine={"max_num_seqs": 6}))
        demo.cluster.wait(
            "new replica", lambda: bool(demo.replicas()) and not before.keys() & demo.replicas().keys(), 300
        )
        time.sleep(5)
    assert traffic.failures == []
    assert demo.uids("head") == head
