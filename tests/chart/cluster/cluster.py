"""A Kubernetes of one node in namespaces of its own: etcd, control plane, docker, kubelet, proxy, DNS.

Run it inside `unshare --net --mount --pid --fork --mount-proc --kill-child`: bridge, packet rules, mounts and processes
then end with it, and nothing of the machine is touched. NetworkPolicies are stored and not enforced (docker's bridge
has no controller for them).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker_tools
import yaml
from chart_helm import HELM_4, KUBECTL, ROOT

CACHE = ROOT / ".cache" / "cluster"
HOST = "172.29.0.1"
SERVICES = "10.98.0.0/16"
API = f"https://{HOST}:46443"
TOKENS = "admintoken,admin,admin,system:masters\nkubelettoken,system:node:n1,n1,system:nodes\n"
CRD_PORT = 37443


@dataclass(slots=True)
class Cluster:
    """The processes of the cluster, and its tools.

    Attributes:
        folder: state and logs.
    """

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *, node: bool = True) -> None:
        """Bring everything up, in the order of who needs whom.

        Args:
            node: also controllers, a container engine and a kubelet; without them objects are judged and stored.

        Raises:
            TimeoutError: a part did not answer; its log is in `folder`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "hosts").mkdir()
        self.network()
        self._api_server()
        if node:
            self._controllers()
            self._node()

    def stop(self) -> None:
        """End the processes; what docker mounted goes with the mount namespace."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def network(self) -> None:
        """Loopback, and the bridge that the pods hang on."""
        bridge = ("link add hsbr0 type bridge", f"addr add {HOST}/24 dev hsbr0", "link set hsbr0 up")
        # Without a route a packet to a Service is refused before the proxy's rules can turn it to a pod.
        for words in ("link set lo up", *bridge, f"route add {SERVICES} dev hsbr0"):
            subprocess.run(["ip", *words.split()], check=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _api_server(self) -> None:
        at = self.folder
        (at / "tokens.csv").write_text(TOKENS)
        subprocess.run(["openssl", "genrsa", "-out", str(at / "sa.key"), "2048"], check=True, capture_output=True)
        etcd = "http://127.0.0.1:42379"
        self._run(
            f"""etcd --data-dir {at}/etcd --listen-client-urls {etcd} --advertise-client-urls {etcd}
            --listen-peer-urls http://127.0.0.1:42380 --initial-advertise-peer-urls http://127.0.0.1:42380
            --initial-cluster default=http://127.0.0.1:42380"""
        )
        self._run(
            f"""kube-apiserver --etcd-servers {etcd} --secure-port 46443 --bind-address {HOST}
            --advertise-address {HOST} --cert-dir {at}/certs --token-auth-file {at}/tokens.csv
            --authorization-mode Node,RBAC --service-account-issuer https://kubernetes.default.svc
            --service-account-key-file {at}/sa.key --service-account-signing-key-file {at}/sa.key
            --service-cluster-ip-range {SERVICES} --allow-privileged --enable-admission-plugins NodeRestriction"""
        )
        for name, token in (("kubeconfig", "admintoken"), ("kubeconfig-n1", "kubelettoken")):
            (at / name).write_text(json.dumps(_kubeconfig(token)))
            (at / name).chmod(0o600)
        self.wait("API server", lambda: self.kubectl("get", "--raw", "/readyz").strip() == "ok", 60)

    def crd_server(self) -> None:
        """Kubernetes 1.36's own server of custom resources, beside the old one, which it asks who may do what.

        It lacks `/apis`, so kubectl finds nothing there; it is talked to by HTTP.
        """
        at = self.folder
        off = "NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook"
        self._run(
            f"""apiextensions-apiserver --etcd-servers http://127.0.0.1:42379 --etcd-prefix /crd
            --secure-port {CRD_PORT} --bind-address 127.0.0.1 --cert-dir {at}/crd-certs --kubeconfig {at}/kubeconfig
            --authentication-kubeconfig {at}/kubeconfig --authorization-kubeconfig {at}/kubeconfig
            --authentication-skip-lookup --enable-priority-and-fairness=false
            --disable-admission-plugins {off},ValidatingAdmissionPolicy,MutatingAdmissionPolicy"""
        )

    def _controllers(self) -> None:
        at = self.folder
        self._run(
            f"""kube-controller-manager --kubeconfig {at}/kubeconfig --use-service-account-credentials
            --service-account-private-key-file {at}/sa.key --leader-elect=false --controllers *,-csrsigning
            --port 0 --secure-port 0"""
        )
        self._run(f"kube-scheduler --kubeconfig {at}/kubeconfig --leader-elect=false --port 0 --secure-port 0")

    def _node(self) -> None:
        at = self.folder
        self._docker()
        self._run(
            f"""dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root
            --listen-address={HOST} --bind-interfaces --local=/cluster.local/ --hostsdir={at}/hosts"""
        )
        kubelet = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": HOST,
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDNS": [HOST],
            "clusterDomain": "cluster.local",
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
        }
        (at / "kubelet.yaml").write_text(yaml.safe_dump(kubelet))
        self._run(
            f"""kubelet --config {at}/kubelet.yaml --kubeconfig {at}/kubeconfig-n1 --hostname-override n1
            --root-dir {at}/kubelet --cert-dir {at}/kubelet-certs --node-ip {HOST} --container-runtime docker
            --docker-endpoint unix://{at}/docker.sock --pod-infra-container-image local/pause:1 --network-plugin="""
        )
        self._run(
            f"""kube-proxy --kubeconfig {at}/kubeconfig --hostname-override n1 --proxy-mode iptables
            --masquerade-all --cluster-cidr 172.29.0.0/24 --conntrack-max-per-core 0"""
        )

        def ready() -> bool:
            (node,) = self.get("nodes")
            return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])

        self.wait("node", ready, 90)

    def _docker(self) -> None:
        """The container engine of scripts/docker_tools.py with its images, on our bridge."""
        clamped = {"clamped": {"path": str(docker_tools.CACHE / "bin" / "runc-clamped")}}
        (self.folder / "daemon.json").write_text(json.dumps({"runtimes": clamped, "default-runtime": "clamped"}))
        self._run(
            f"""dockerd --config-file {self.folder}/daemon.json --oom-score-adjust 0
            --default-ulimit nofile=20000:20000 --storage-driver overlay2 --data-root {docker_tools.CACHE}/data
            --exec-root {self.folder}/docker-exec --pidfile {self.folder}/docker.pid
            --host unix://{self.folder}/docker.sock --bridge hsbr0 --iptables=false --ip-masq=false"""
        )
        self.wait("docker", lambda: bool(self.docker("version", "--format", "{{.Server.Version}}")), 60)

    def _run(self, command: str) -> None:
        name, *words = command.split()
        log = (self.folder / f"{name}.log").open("wb")
        tool = shutil.which(name, path=self.environment()["PATH"])
        assert tool is not None, name
        self.processes[name] = subprocess.Popen([tool, *words], stdout=log, stderr=log, env=self.environment())

    def environment(self) -> dict[str, str]:
        """Environment that finds the unpacked tools."""
        root = CACHE / "root"
        docker = docker_tools.environment()
        path = [CACHE / "bin", root / "usr/sbin", root / "usr/bin", root / "sbin"]
        libraries = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
        return {
            **docker,
            "PATH": ":".join([*map(str, path), docker["PATH"]]),
            "LD_LIBRARY_PATH": ":".join([*map(str, libraries), docker["LD_LIBRARY_PATH"]]),
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
        }

    def wait(self, what: str, done: Callable[[], bool], seconds: float) -> None:
        """Ask until it is done.

        Raises:
            TimeoutError: it was not done in time.
        """
        deadline = time.monotonic() + seconds
        last = ""
        while time.monotonic() < deadline:
            try:
                if done():
                    return
            except (subprocess.CalledProcessError, ValueError, KeyError) as error:
                last = str(getattr(error, "stderr", error))[-500:]
            time.sleep(0.5)
        raise TimeoutError(f"{what} is not ready after {seconds:g} s: {last}")

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return self._tool([str(KUBECTL), "--kubeconfig", str(self.folder / "kubeconfig"), *words], stdin)

    def docker(self, *words: str) -> str:
        return self._tool([str(docker_tools.TREE / "usr/bin/docker"), *words])

    def helm(self, *words: str, stdin: str | None = None) -> str:
        return self._tool([str(HELM_4), "--kubeconfig", str(self.folder / "kubeconfig"), *words], stdin)

    def get(self, *words: str) -> list[dict[str, Any]]:
        """Objects, as `kubectl get` finds them."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", *words, "-o", "json"))["items"]
        return items

    def name_services(self) -> None:
        """Give every Service its DNS name; dnsmasq reads the folder again by itself."""
        lines = []
        for one in self.get("services", "-A"):
            meta = one["metadata"]
            lines.append(f"{one['spec']['clusterIP']} {meta['name']}.{meta['namespace']}.svc.cluster.local")
        (self.folder / "hosts" / "services").write_text("\n".join(lines) + "\n")

    def _tool(self, words: list[str], stdin: str | None = None) -> str:
        ran = subprocess.run(words, input=stdin, capture_output=True, text=True, env=self.environment(), timeout=400)
        if ran.returncode != 0:
            error = subprocess.CalledProcessError(ran.returncode, words, ran.stdout, ran.stderr)
            error.add_note(ran.stdout[-1500:] + ran.stderr[-1500:])
            raise error
        return ran.stdout


def _kubeconfig(token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": API, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def chart_for_old_kubernetes(folder: Path) -> Path:
    """The chart without its lower bound: the newest control plane that can be built here is older than it."""
    chart = folder / "hybridserve"
    shutil.copytree(ROOT / "helm" / "hybridserve", chart)
    head = yaml.safe_load((chart / "Chart.yaml").read_text())
    head.pop("kubeVersion")
    (chart / "Chart.yaml").write_text(yaml.safe_dump(head))
    return chart
