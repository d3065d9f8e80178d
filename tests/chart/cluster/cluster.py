"""A Kubernetes of one or two nodes in namespaces of its own: etcd, control plane, docker, kubelets, proxy, DNS.

Run it inside `unshare --net --mount --pid --fork --mount-proc --kill-child`: bridge, packet rules, mounts and processes
then end with it, and nothing of the machine is touched. NetworkPolicies are stored and not enforced (docker's bridge
has no controller for them).
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker_tools
import httpx
import yaml
from chart_helm import HELM_4, KUBECTL, ROOT, Object
from crd_schema import FOLDER

CACHE = ROOT / ".cache" / "cluster"
HOST = "172.29.0.1"
SERVICES = "10.98.0.0/16"
API = f"https://{HOST}:46443"
TOKENS = """admintoken,admin,admin,system:masters
n1token,system:node:n1,n1,system:nodes
n2token,system:node:n2,n2,system:nodes
"""
CRD_PORT = 37443
NODE_ADDRESS = "172.29.0.{}"


@dataclass(slots=True)
class Cluster:
    """The processes of the cluster, and its tools.

    Attributes:
        folder: state and logs.
    """

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, nodes: int = 1) -> None:
        """Bring everything up, in the order of who needs whom.

        Args:
            nodes: 0: objects are judged and stored. 1 or 2: also controllers, and a container engine and a kubelet for
                each node. All nodes share one network and kube-proxy.

        Raises:
            TimeoutError: a part did not answer; its log is in `folder`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "hosts").mkdir()
        self.network()
        self._api_server()
        if nodes:
            self._controllers()
            self._services()
            data = [docker_tools.CACHE / "data", *map(_same_images, range(2, nodes + 1))]
            for number, folder in enumerate(data, 1):
                self._node(number, folder)
            self.wait("nodes", lambda: sum(map(is_ready, self.get("nodes"))) == nodes, 90)

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
        addresses = [f"addr add {NODE_ADDRESS.format(number)}/24 dev hsbr0" for number in (1, 2)]
        bridge = ("link add hsbr0 type bridge", *addresses, "link set hsbr0 up")
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
            --feature-gates GenericEphemeralVolume=true
            --advertise-address {HOST} --cert-dir {at}/certs --token-auth-file {at}/tokens.csv
            --authorization-mode Node,RBAC --service-account-issuer https://kubernetes.default.svc
            --service-account-key-file {at}/sa.key --service-account-signing-key-file {at}/sa.key
            --service-cluster-ip-range {SERVICES} --allow-privileged --enable-admission-plugins NodeRestriction"""
        )
        for name, token in (("kubeconfig", "admintoken"), ("kubeconfig-n1", "n1token"), ("kubeconfig-n2", "n2token")):
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
            --root-ca-file {at}/certs/apiserver.crt --service-account-private-key-file {at}/sa.key
            --leader-elect=false --controllers *,-csrsigning
            --port 0 --secure-port 0"""
        )
        self._run(f"kube-scheduler --kubeconfig {at}/kubeconfig --leader-elect=false --port 0 --secure-port 0")

    def _services(self) -> None:
        """DNS for the pods, and the packet rules of Services."""
        at = self.folder
        self._run(
            f"""dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root
            --listen-address={HOST} --bind-interfaces --local=/cluster.local/ --hostsdir={at}/hosts"""
        )
        self._run(
            f"""kube-proxy --kubeconfig {at}/kubeconfig --hostname-override n1 --proxy-mode iptables
            --masquerade-all --cluster-cidr 172.29.0.0/24 --conntrack-max-per-core 0"""
        )

    def _node(self, number: int, data: Path) -> None:
        at, name = self.folder, f"n{number}"
        self._docker(name, number, data)
        root = "/" if number == 1 else f"/hybridserve-{name}"  # each kubelet removes pods that are not its own
        for controller in Path("/sys/fs/cgroup").iterdir() if number > 1 else ():
            if controller.is_dir() and not controller.is_symlink():
                (controller / root[1:]).mkdir(exist_ok=True)
        kubelet = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": HOST,
            "port": 10240 + 10 * number,
            "healthzPort": 10241 + 10 * number,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": root,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDNS": [HOST],
            "clusterDomain": "cluster.local",
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
        }
        (at / f"kubelet-{name}.yaml").write_text(yaml.safe_dump(kubelet))
        self._run(
            f"""kubelet --config {at}/kubelet-{name}.yaml --kubeconfig {at}/kubeconfig-{name} --hostname-override {name}
            --root-dir {at}/kubelet-{name} --cert-dir {at}/kubelet-certs-{name} --node-ip {NODE_ADDRESS.format(number)}
            --container-runtime docker --docker-endpoint unix://{at}/docker-{name}.sock
            --experimental-dockershim-root-directory {at}/dockershim-{name}
            --pod-infra-container-image local/pause:1 --network-plugin=""",
            f"kubelet-{name}",
        )

    def _docker(self, name: str, number: int, data: Path) -> None:
        """The container engine of scripts/docker_tools.py with its images, on our bridge."""
        at = self.folder
        clamped = {"clamped": {"path": str(docker_tools.CACHE / "bin" / "runc-clamped")}}
        (at / "daemon.json").write_text(json.dumps({"runtimes": clamped, "default-runtime": "clamped"}))
        self._run(
            f"""dockerd --config-file {at}/daemon.json --oom-score-adjust 0
            --default-ulimit nofile=20000:20000 --storage-driver overlay2 --data-root {data}
            --exec-root {at}/docker-exec-{name} --pidfile {at}/docker-{name}.pid --host unix://{at}/docker-{name}.sock
            --bridge hsbr0 --fixed-cidr 172.29.0.{64 * number}/26 --iptables=false --ip-masq=false""",
            f"dockerd-{name}",
        )
        ask = ("version", "--format", "{{.Server.Version}}")
        self.wait("docker", lambda: bool(self.docker(*ask, node=name)), 60)

    def _run(self, command: str, name: str = "") -> None:
        program, *words = command.split()
        name = name or program
        log = (self.folder / f"{name}.log").open("wb")
        tool = shutil.which(program, path=self.environment()["PATH"])
        assert tool is not None, program
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

    def docker(self, *words: str, node: str = "n1") -> str:
        host = f"unix://{self.folder}/docker-{node}.sock"
        return self._tool([str(docker_tools.TREE / "usr/bin/docker"), "--host", host, *words])

    def create_crds(self, group: str = "") -> None:
        """Create the custom resources that the chart may use, and KubeRay's RayCluster; or those of one API group."""
        for crd in old_crds():
            if group not in ("", crd["spec"]["group"]):
                continue
            self.kubectl("create", "--validate=false", "-f", "-", stdin=json.dumps(crd))

        def established() -> bool:
            crds = [crd["status"].get("conditions") or [] for crd in self.get("crd")]
            return all(
                {"Established": "True"}.items() <= {one["type"]: one["status"] for one in crd}.items() for crd in crds
            )

        self.wait("CRDs", established, 60)

    def helm(self, *words: str, stdin: str | None = None) -> str:
        return self._tool([str(HELM_4), "--kubeconfig", str(self.folder / "kubeconfig"), *words], stdin)

    def get(self, *words: str) -> list[dict[str, Any]]:
        """Objects, as `kubectl get` finds them."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", *words, "-o", "json"))["items"]
        return items

    def api(self) -> httpx.Client:
        """A client of the API server that may do everything."""
        headers = {"Authorization": "Bearer admintoken"}
        return httpx.Client(base_url=API, headers=headers, verify=False, trust_env=False, timeout=30)

    def object(self, kind: str, name: str, namespace: str) -> Object:
        """One object.

        Raises:
            CalledProcessError: there is none of that name.
        """
        found: Object = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def evict(self, pod: str, namespace: str) -> None:
        """Ask for the eviction of a pod, as `kubectl drain` does.

        Raises:
            HTTPStatusError: the API server refuses it (429 because of a PodDisruptionBudget).
        """
        eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod}}
        with self.api() as api:
            api.post(f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", json=eviction).raise_for_status()

    def disruptions_allowed(self, namespace: str) -> int:
        """Evictions that the only PodDisruptionBudget allows now."""
        (budget,) = self.get("poddisruptionbudgets", "-n", namespace)
        allowed: int = budget.get("status", {}).get("disruptionsAllowed", 0)
        return allowed

    def name_services(self) -> None:
        """Give every Service its DNS name: its address, or that of its pods when it is headless."""
        with self.api() as api:
            services = api.get("/api/v1/services").raise_for_status().json()["items"]
            endpoints = api.get("/api/v1/endpoints").raise_for_status().json()["items"]
        pods = {(one["metadata"]["namespace"], one["metadata"]["name"]): one.get("subsets") or [] for one in endpoints}
        lines = []
        for one in services:
            name, namespace = one["metadata"]["name"], one["metadata"]["namespace"]
            addresses = [one["spec"]["clusterIP"]]
            if addresses == ["None"]:
                subsets = pods.get((namespace, name), [])
                addresses = [each["ip"] for subset in subsets for each in subset.get("addresses", [])]
            lines += [f"{address} {name}.{namespace}.svc.cluster.local" for address in addresses]
        text = "\n".join(sorted(lines)) + "\n"
        # dnsmasq reads the folder's new files by itself, and forgets a name only when it reads all of them again.
        file = self.folder / "hosts" / "services"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            self.processes["dnsmasq"].send_signal(signal.SIGHUP)

    def _tool(self, words: list[str], stdin: str | None = None) -> str:
        ran = subprocess.run(words, input=stdin, capture_output=True, text=True, env=self.environment(), timeout=400)
        if ran.returncode != 0:
            error = subprocess.CalledProcessError(ran.returncode, words, ran.stdout, ran.stderr)
            error.add_note(ran.stdout[-1500:] + ran.stderr[-1500:])
            raise error
        return ran.stdout


def is_ready(one: Object) -> bool:
    """Whether the condition Ready of a pod or node is true."""
    conditions = one["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _same_images(number: int) -> Path:
    """Another data folder of docker with the same images: layers are never written to, so they are hard links."""
    source, target = docker_tools.CACHE / "data", docker_tools.CACHE / f"data-n{number}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    # An engine that ran on this machine has left its folder mounted over itself, and no link leads out of a mount.
    subprocess.run(["umount", "--lazy", source], capture_output=True)
    subprocess.run(["cp", "-al", source / "overlay2", target], check=True)
    subprocess.run(["cp", "-a", source / "image", target], check=True)
    return target


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
    """The chart for the newest control plane that can be built here, which is older than the chart's lower bound.

    PodDisruptionBudgets, without `unhealthyPodEvictionPolicy`, and HorizontalPodAutoscalers are written in the beta
    version that became the chart's.
    """
    chart = folder / "hybridserve"
    shutil.copytree(ROOT / "helm" / "hybridserve", chart)
    head = yaml.safe_load((chart / "Chart.yaml").read_text())
    head.pop("kubeVersion")
    (chart / "Chart.yaml").write_text(yaml.safe_dump(head))
    for file in (*chart.rglob("pdb.yaml"), *chart.rglob("hpa.yaml")):
        lines = [line for line in file.read_text().splitlines() if "unhealthyPodEvictionPolicy" not in line]
        text = "\n".join(lines).replace("policy/v1", "policy/v1beta1")
        file.write_text(text.replace("autoscaling/v2", "autoscaling/v2beta2"))
    return chart


DROPPED = ("x-kubernetes-validations", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type")


def old_schema(node: Any) -> Any:
    """A structural schema as Kubernetes 1.20 reads it: no CEL, and no list types that it does not know."""
    if isinstance(node, list):
        return [old_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        name: old_schema(value)
        for name, value in node.items()
        if name not in DROPPED and not (name == "default" and value == "")
    }


def old_crds() -> list[Object]:
    """The custom resources that the chart may create, for Kubernetes 1.20; and KubeRay's RayCluster."""
    made = []
    for file in sorted(FOLDER.glob("*.json")):
        crd = json.loads(file.read_text(encoding="utf-8"))
        crd.pop("status", None)
        crd["spec"]["versions"] = [old_schema(one) for one in crd["spec"]["versions"] if one["storage"]]
        crd["metadata"].setdefault("annotations", {})["api-approved.kubernetes.io"] = "unapproved, a test"
        made.append(crd)
        if crd["spec"]["names"]["kind"] == "RayService":
            made.append(_ray_cluster_crd(crd))
    return made


def _ray_cluster_crd(service: Object) -> Object:
    """A RayCluster has the schema of `rayClusterConfig`."""
    crd: Object = json.loads(
        json.dumps(service).replace("rayservice", "raycluster").replace("RayService", "RayCluster")
    )
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = schema["properties"]["spec"]["properties"]["rayClusterConfig"]
    schema["properties"]["status"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return crd
