"""The chart on a real cluster, `make test-cluster`: install, test, refuse, upgrade under traffic, roll back, uninstall.

Kubernetes is 1.20.2, the newest that can be built where this runs, so that the chart's lower bound is taken off and
the PodDisruptionBudget (policy/v1) stays out. The pods run the images of deploy/Dockerfile.cpu and Dockerfile.control,
which images.py has built. The tests are one story and run in their order.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cluster import Cluster, chart_for_old_kubernetes

pytestmark = pytest.mark.timeout(600)
NAMESPACE = "serving"
VALUES: dict[str, Any] = {
    "replicaCount": 1,
    "startupSeconds": 600,
    "drainSeconds": 20,
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}},
    "podDisruptionBudget": {"enabled": False},
    "settings": {"engine": {"max_num_seqs": 8}},
    "weights": {"cache": {"persistent": True, "size": "1Gi"}},
}
VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: weights}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: %s}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="hs-cluster-", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def chart(cluster: Cluster) -> Path:
    return chart_for_old_kubernetes(cluster.folder)


def values(**changes: Any) -> str:
    return yaml.safe_dump({**VALUES, **changes})


def service_url(cluster: Cluster) -> str:
    (service,) = [one for one in cluster.get("services", "-n", NAMESPACE) if one["metadata"]["name"] == "demo"]
    return f"http://{service['spec']['clusterIP']}:8000"


def engine_pods(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=engine")


def test_install_waits_until_it_serves(cluster: Cluster, chart: Path) -> None:
    folder = cluster.folder / "weights"
    folder.mkdir()
    folder.chmod(0o777)  # fsGroup does not reach into a hostPath
    cluster.kubectl("apply", "-f", "-", stdin=VOLUME % folder)
    notes = cluster.helm("install", "demo", str(chart), "-n", NAMESPACE, "--create-namespace", "--wait",
                         "--timeout", "390s", "--values", "-", stdin=values())  # fmt: skip
    assert "STATUS: deployed" in notes
    assert "no API keys are asked for" in notes
    cluster.name_services()
    models = httpx.get(f"{service_url(cluster)}/v1/models", timeout=30).json()
    assert [one["id"] for one in models["data"]] == ["demo"]


def test_the_process_is_locked_in(cluster: Cluster) -> None:
    (pod,) = engine_pods(cluster)
    (status,) = pod["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("docker://")
    status_file = cluster.docker("exec", container, "cat", "/proc/1/status")
    facts = dict(line.split(":", 1) for line in status_file.splitlines())
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        cluster.docker("exec", container, "touch", "/here")
    assert "Read-only file system" in refused.value.stderr
    mounts = cluster.docker("exec", container, "cat", "/proc/1/mounts")
    assert "kubernetes.io/serviceaccount" not in mounts


def test_helm_test_passes(cluster: Cluster) -> None:
    said = cluster.helm("test", "demo", "-n", NAMESPACE, "--timeout", "180s")
    assert "Phase:          Succeeded" in said


def test_a_release_that_fails_its_checks_is_stopped(cluster: Cluster, chart: Path) -> None:
    before = [pod["metadata"]["uid"] for pod in engine_pods(cluster)]
    settings = {**VALUES["settings"], "server": {"profile": "production"}}
    with pytest.raises(subprocess.CalledProcessError) as refused:
        cluster.helm("upgrade", "demo", str(chart), "-n", NAMESPACE, "--wait", "--timeout", "120s", "--values", "-",
                     stdin=values(settings=settings))  # fmt: skip
    assert "pre-upgrade hooks failed" in refused.value.stderr
    (checked,) = cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=check")
    words = checked["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    assert "guard.kind is none" in words
    assert "production on" in words
    assert [pod["metadata"]["uid"] for pod in engine_pods(cluster)] == before


class Traffic:
    """Requests one after another on a few connections, half of them streams, until it is stopped."""

    def __init__(self, url: str, users: int = 2) -> None:
        self.answers: list[int] = []
        self.failures: list[str] = []
        self._url = url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(users)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        stream = number % 2 == 0
        body = {
            "model": "demo",
            "stream": stream,
            "max_tokens": 24,
            "messages": [{"role": "user", "content": "What is this?"}],
        }
        while not self._ended.is_set():
            try:
                # A connection for each request, as clients behind a Service that come and go.
                with httpx.Client(timeout=60, trust_env=False) as client:
                    answer = client.post(f"{self._url}/v1/chat/completions", json=body)
                    whole = not stream or answer.text.rstrip().endswith("data: [DONE]")
                    if answer.status_code == 200 and whole:
                        self.answers.append(len(answer.content))
                    else:
                        self.failures.append(f"HTTP {answer.status_code} {answer.text[-200:]}")
            except httpx.HTTPError as error:
                self.failures.append(f"{time.strftime('%X')} {type(error).__name__}: {error}")
            time.sleep(0.2)


def test_an_upgrade_under_traffic_fails_no_request(cluster: Cluster, chart: Path) -> None:
    (before,) = engine_pods(cluster)
    with Traffic(service_url(cluster)) as traffic:
        time.sleep(3)
        cluster.helm("upgrade", "demo", str(chart), "-n", NAMESPACE, "--wait", "--timeout", "390s", "--values", "-",
                     stdin=values(settings={"engine": {"max_num_seqs": 6}}))  # fmt: skip

        def replaced() -> bool:
            return before["metadata"]["uid"] not in [pod["metadata"]["uid"] for pod in engine_pods(cluster)]

        cluster.wait("end of the old pod", replaced, 120)
        time.sleep(3)
    assert traffic.failures == []
    assert len(traffic.answers) > 20
    print(f"{len(traffic.answers)} requests answered across the upgrade")
    (after,) = engine_pods(cluster)
    assert after["status"]["conditions"]


def test_a_failing_upgrade_rolls_back(cluster: Cluster, chart: Path) -> None:
    (before,) = engine_pods(cluster)
    broken = values(image={"repository": "does-not-exist", "tag": "1"}, check={"enabled": False})
    with pytest.raises(subprocess.CalledProcessError) as failed:
        cluster.helm("upgrade", "demo", str(chart), "-n", NAMESPACE, "--wait", "--rollback-on-failure",
                     "--timeout", "30s", "--values", "-", stdin=broken)  # fmt: skip
    assert "roll" in failed.value.stderr
    history = json.loads(cluster.helm("history", "demo", "-n", NAMESPACE, "-o", "json"))
    assert history[-1]["status"] == "deployed"
    assert "Rollback" in history[-1]["description"]
    assert httpx.get(f"{service_url(cluster)}/v1/models", timeout=30).status_code == 200
    running = [pod for pod in engine_pods(cluster) if pod["status"]["phase"] == "Running"]
    assert [pod["metadata"]["uid"] for pod in running] == [before["metadata"]["uid"]]


def test_uninstall_leaves_what_the_policy_keeps(cluster: Cluster) -> None:
    said = cluster.helm("uninstall", "demo", "-n", NAMESPACE, "--wait", "--timeout", "120s")
    assert "demo-weights" in said  # helm says what it keeps
    cluster.wait("end of the pods", lambda: not engine_pods(cluster), 120)
    kinds = "all,configmaps,secrets,pvc,serviceaccounts,networkpolicies,ingresses"
    left = [
        f"{one['kind']}/{one['metadata']['name']}"
        for one in cluster.get(kinds, "-n", NAMESPACE)
        if one["metadata"].get("labels", {}).get("app.kubernetes.io/instance") == "demo"
        and one["kind"] not in ("Pod", "Job")
        and "helm.sh/hook" not in one["metadata"].get("annotations", {})
    ]
    assert left == ["PersistentVolumeClaim/demo-weights"]
