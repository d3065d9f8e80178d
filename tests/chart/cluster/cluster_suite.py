"""Mode standalone on a real cluster, `make test-cluster PART=node`: install, test, refuse, upgrade, drain, uninstall.

Kubernetes is 1.20.2, the newest that can be built where this runs, so that the chart's lower bound is taken off and
PodDisruptionBudgets have their beta version. The pods run the images of deploy/Dockerfile.cpu and Dockerfile.control,
which images.py has built. The tests are one story and run in their order.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from release import NAMESPACE, VERIFY_ROUTES, Release, check_process_is_restricted, running_cluster
from traffic import repeated

pytestmark = pytest.mark.timeout(600)
VALUES: dict[str, Any] = {
    "replicaCount": 1,
    "startupSeconds": 600,
    "drainSeconds": 20,
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}},
    "settings": {"engine": {"max_num_seqs": 8}},
    "weights": {"cache": {"persistent": True, "size": "1Gi", "accessModes": ["ReadWriteMany"]}},
}
# Rounds the SSM state to bfloat16. `single`: the suite asks the replica itself for the reason.
BROKEN = {"engine": {"max_num_seqs": 6, "mamba_ssm_cache_dtype": "bfloat16"}, "server": {"data_path": "single"}}
VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: weights}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: %s}
"""


@pytest.fixture(scope="module")
def demo() -> Iterator[Release]:
    with running_cluster(VALUES) as release:
        yield release


def test_install_waits_until_it_serves(demo: Release) -> None:
    folder = demo.cluster.folder / "weights"
    folder.mkdir()
    folder.chmod(0o777)  # fsGroup does not reach into a hostPath
    demo.cluster.kubectl("apply", "-f", "-", stdin=VOLUME % folder)
    notes = demo.install()
    assert "STATUS: deployed" in notes
    assert "no API keys are required" in notes
    demo.cluster.name_services()
    models = httpx.get(f"{demo.url()}/v1/models", timeout=30).json()
    assert [one["id"] for one in models["data"]] == ["demo"]


def test_the_process_is_restricted(demo: Release) -> None:
    (pod,) = demo.pods()
    check_process_is_restricted(demo.cluster, pod)


def test_helm_test_passes(demo: Release) -> None:
    said = demo.cluster.helm("test", "demo", "-n", NAMESPACE, "--timeout", "180s")
    assert "Phase:          Succeeded" in said


def test_a_release_that_fails_its_checks_is_stopped(demo: Release) -> None:
    """A guard without a format: the schema and the template rules accept it, and the check Job does not."""
    before = demo.uids()
    guard = {"kind": "model", "url": "https://guard.example:8080", "model": "Qwen/Qwen3Guard-Gen-0.6B"}
    with pytest.raises(subprocess.CalledProcessError) as refused:
        demo.upgrade(
            timeout_s=120,
            settings={**VALUES["settings"], "guard": guard},
            networkPolicy={"guard": [{"podSelector": {}}]},
        )
    assert "pre-upgrade hooks failed" in refused.value.stderr
    (checked,) = demo.pods("check")
    words = checked["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    assert "kind model needs model and format" in words
    assert demo.uids() == before


def test_changed_settings_replace_the_pod_without_a_failed_request(demo: Release) -> None:
    """In this mode a setting that mode rayservice changes in place (max_choices) needs a new pod like any other."""
    before = demo.uids()
    assert demo.chat(n=2).status_code == 200
    with demo.traffic() as traffic:
        time.sleep(3)
        access = {"max_choices": 1, "open_routes": VERIFY_ROUTES}
        demo.upgrade(settings={"engine": {"max_num_seqs": 6}, "access": access})
        demo.cluster.wait("end of the old pod", lambda: not before & demo.uids(), 120)
        time.sleep(3)
    assert traffic.failures == []
    assert len(traffic.answers) > 20
    assert len(demo.pods()) == 1
    assert demo.chat(n=2).status_code == 400


def test_an_engine_with_wrong_states_is_rolled_back_without_a_failed_request(demo: Release) -> None:
    """The new pods round the SSM state to bfloat16: they answer fluently, and their log-probabilities are wrong."""
    before, verify = demo.uids(), {"reference": demo.record_reference()}
    reasons: set[str] = set()

    def watch() -> None:
        for pod in demo.pods():
            address = pod["status"].get("podIP")
            if address and pod["metadata"]["uid"] not in before:
                with suppress(httpx.HTTPError):
                    reasons.add(httpx.get(f"http://{address}:8000/ready", timeout=5, trust_env=False).text)

    with demo.traffic() as traffic, repeated(watch, 2.0), pytest.raises(subprocess.CalledProcessError) as failed:
        demo.upgrade("--rollback-on-failure", timeout_s=200, settings=BROKEN, verify=verify)
    assert "roll" in failed.value.stderr
    assert any("log-probabilities are wrong" in reason for reason in reasons), reasons
    assert traffic.failures == []
    assert len(traffic.answers) > 20
    demo.cluster.wait("end of the broken pod", lambda: demo.uids() == before, 120)


def test_helm_test_requires_the_check_of_this_release(demo: Release) -> None:
    """The old pod serves and was never checked: no pass for the release whose pod is kept out, and for the next one."""
    verify = {"reference": (demo.cluster.folder / "reference.json").read_text()}
    with pytest.raises(subprocess.CalledProcessError):
        demo.upgrade(timeout_s=20, settings=BROKEN, verify=verify, test={"deadlineSeconds": 60})
    demo.check_helm_test_fails(verify["reference"])
    demo.upgrade(settings={"engine": {"max_num_seqs": 6}}, verify=verify)
    said = demo.cluster.helm("test", "demo", "-n", NAMESPACE, "--timeout", "320s")
    assert "Phase:          Succeeded" in said
    demo.cluster.wait("end of the old pod", lambda: len(demo.pods()) == 1, 120)


def test_a_failing_upgrade_rolls_back(demo: Release) -> None:
    before = demo.uids()
    broken = {"image": {"repository": "does-not-exist", "tag": "1"}, "check": {"enabled": False}}
    with pytest.raises(subprocess.CalledProcessError) as failed:
        demo.upgrade("--rollback-on-failure", timeout_s=30, **broken)
    assert "roll" in failed.value.stderr
    history = json.loads(demo.cluster.helm("history", "demo", "-n", NAMESPACE, "-o", "json"))
    assert history[-1]["status"] == "deployed"
    assert "Rollback" in history[-1]["description"]
    assert httpx.get(f"{demo.url()}/v1/models", timeout=30).status_code == 200
    running = {pod["metadata"]["uid"] for pod in demo.pods() if pod["status"]["phase"] == "Running"}
    assert running == before


def test_a_node_drains_only_while_a_pod_remains(demo: Release) -> None:
    """Two pods and the chart's PodDisruptionBudget: one eviction is allowed, the next one is not."""
    demo.upgrade(replicaCount=2, settings={"engine": {"max_num_seqs": 6}})
    kept = [pod["metadata"] for pod in demo.pods() if "deletionTimestamp" not in pod["metadata"]]
    first, second = sorted(pod["name"] for pod in kept)
    demo.cluster.wait("budget", lambda: demo.cluster.disruptions_allowed(NAMESPACE) == 1, 60)
    demo.cluster.evict(first, NAMESPACE)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        demo.cluster.evict(second, NAMESPACE)
    assert "disruption budget" in refused.value.response.text


def test_uninstall_leaves_what_the_policy_keeps(demo: Release) -> None:
    said = demo.cluster.helm("uninstall", "demo", "-n", NAMESPACE, "--wait", "--timeout", "120s")
    assert "demo-weights" in said  # Helm says what it keeps
    demo.cluster.wait("end of the pods", lambda: not demo.pods(), 120)
    assert demo.leftovers() == ["PersistentVolumeClaim/demo-weights"]
