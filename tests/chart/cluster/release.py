"""The chart as the release `demo` of a cluster: what the suites of both modes do with it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from chart_helm import ROOT, Object
from cluster import Cluster, chart_for_old_kubernetes
from traffic import Traffic

NAMESPACE = "serving"
# What `hybridserve verify` needs beside the API, for clients without a key.
VERIFY_ROUTES = ["POST /tokenize", "POST /detokenize", "GET /version"]


@dataclass(slots=True)
class Release:
    """The release `demo`.

    Attributes:
        chart: the chart, changed for an old Kubernetes.
        values: what every install and upgrade has in common.
    """

    cluster: Cluster
    chart: Path
    values: dict[str, Any]

    def install(self) -> str:
        """Install and wait until it serves; returns Helm's output."""
        words = ("-n", NAMESPACE, "--create-namespace", "--wait", "--timeout", "390s", "--values", "-")
        return self.cluster.helm("install", "demo", str(self.chart), *words, stdin=yaml.safe_dump(self.values))

    def upgrade(self, *options: str, timeout_s: int = 390, **changes: Any) -> str:
        """Upgrade with these top-level values changed, and wait."""
        words = ("-n", NAMESPACE, "--wait", "--timeout", f"{timeout_s}s", "--values", "-", *options)
        values = yaml.safe_dump({**self.values, **changes})
        return self.cluster.helm("upgrade", "demo", str(self.chart), *words, stdin=values)

    def service(self, name: str = "demo") -> Object:
        found: Object = self.cluster.object("service", name, NAMESPACE)
        return found

    def url(self, name: str = "demo") -> str:
        return f"http://{self.service(name)['spec']['clusterIP']}:8000"

    def chat(self, **body: Any) -> httpx.Response:
        """One answer through the release's Service."""
        messages = [{"role": "user", "content": "What is this?"}]
        request = {"model": "demo", "max_tokens": 8, "messages": messages, **body}
        return httpx.post(f"{self.url()}/v1/chat/completions", json=request, timeout=60, trust_env=False)

    def record_reference(self) -> str:
        """The text of a reference that `hybridserve verify --record` makes of the running release."""
        reference = self.cluster.folder / "reference.json"
        command = [str(ROOT / ".venv/bin/hybridserve"), "verify", self.url(), "--record", str(reference)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        return reference.read_text()

    def check_helm_test_fails(self, reference: str) -> None:
        """`helm test` fails because the pod that answers was not checked against this reference."""
        with pytest.raises(subprocess.CalledProcessError):
            self.cluster.helm("test", "demo", "-n", NAMESPACE, "--timeout", "120s")
        (tested,) = self.pods("test")
        words = tested["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
        assert f"the numeric check ({json.loads(reference)['sha256']}) has not passed" in words

    def traffic(self) -> Traffic:
        url = self.url()
        return Traffic(lambda: url)

    def pods(self, component: str = "engine") -> list[Object]:
        return self.cluster.get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/component={component}")

    def uids(self, component: str = "engine") -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.pods(component)}

    def leftovers(self) -> list[str]:
        """Objects of the release that are not of its hooks."""
        kinds = "all,configmaps,secrets,pvc,serviceaccounts,networkpolicies,ingresses,poddisruptionbudgets"
        return [
            f"{one['kind']}/{one['metadata']['name']}"
            for one in self.cluster.get(kinds, "-n", NAMESPACE)
            if one["metadata"].get("labels", {}).get("app.kubernetes.io/instance") == "demo"
            and one["kind"] not in ("Pod", "Job")
            and "helm.sh/hook" not in one["metadata"].get("annotations", {})
        ]


@contextmanager
def running_cluster(values: dict[str, Any], nodes: int = 1) -> Iterator[Release]:
    """A started cluster, with nothing installed."""
    with tempfile.TemporaryDirectory(prefix="hs-cluster-", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        try:
            made.start(nodes=nodes)
            yield Release(made, chart_for_old_kubernetes(made.folder), values)
        finally:
            made.stop()


def check_process_is_restricted(cluster: Cluster, pod: Object) -> None:
    """What Pod Security `restricted` and the chart promise, seen from the first container's process."""
    names = [one["name"] for one in pod["spec"]["containers"]]
    (status,) = [one for one in pod["status"]["containerStatuses"] if one["name"] == names[0]]
    container = status["containerID"].removeprefix("docker://")
    ran = cluster.docker("exec", container, "sh", "-c", "cat /proc/1/status; touch /here 2>&1; cat /proc/1/mounts")
    facts = dict(line.split(":", 1) for line in ran.splitlines() if ":" in line)
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"
    assert "Read-only file system" in ran
    assert "kubernetes.io/serviceaccount" not in ran
