"""Values that contradict each other are refused at render: every rule, with its path, and all of them at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
from chart_cases import values_of
from chart_helm import CHART, HELM_3, HelmError, template

GPU = {"limits": {"nvidia.com/gpu": 1}}
RAY = {"mode": "rayservice", "ray": {"token": {"existingSecret": "t"}}}
GROUP = {"name": "a", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}
PLAN = {"model": "demo", "accelerator": "cpu", "engine": "0.29.0", "devices": 1, "numBlocks": 9, "maxNumSeqs": 9,
        "maxModelLen": 100, "poolKnown": True}  # fmt: skip
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def settings(**sections: Any) -> dict[str, Any]:
    return {"settings": sections}


def groups(*members: dict[str, Any]) -> dict[str, Any]:
    return {"mode": "rayservice", "ray": {"token": {"existingSecret": "t"}, "workerGroups": list(members)}}


CASES: list[tuple[dict[str, Any], str]] = [
    (settings(server={"host": "1.2.3.4"}), "settings.server.host: the chart sets it; remove it"),
    (settings(server={"port": 1}), "settings.server.port: the chart sets it; set service.port instead"),
    (settings(server={"drain_timeout_s": 1}), "settings.server.drain_timeout_s: the chart sets it; set drainSeconds"),
    (settings(server={"ready_timeout_s": 1}), "settings.server.ready_timeout_s: the chart sets it; set startupSeconds"),
    (settings(access={"keys_file": "/k"}), "settings.access.keys_file: the chart sets it; set auth.existingSecret"),
    (settings(access={"limits_password_file": "/k"}), "the chart sets it; set auth.limitsSecret instead"),
    ({"auth": {"limitsSecret": "redis"}}, "auth.limitsSecret: no server is named that takes the password"),
    (
        {"verify": {"reference": "x" * 900_001}},
        "verify.reference: 900001 bytes do not fit into a ConfigMap; record it with fewer prompts",
    ),
    (
        {"verify": {"reference": "x"}, **settings(verify={"reference_file": "/r"})},
        "verify.reference: settings.verify.reference_file is set as well; keep one of them",
    ),
    (
        settings(guard={"kind": "model", "model": "a/b", "format": "llama_guard"}),
        "settings.guard.url: is empty, and the chart runs no guard; set it, or set guard.deploy.enabled to true",
    ),
    (
        settings(guard={"kind": "model", "url": "http://127.0.0.1:8002/v1"}),
        "settings.guard.url: http://127.0.0.1:8002/v1 is the pod itself, where no guard listens; remove it and set "
        "guard.deploy.enabled to true",
    ),
    (
        settings(guard={"kind": "nemo", "url": "http://localhost:8000", "config_id": "x"}),
        "settings.guard.url: http://localhost:8000 is the pod itself, where no guard listens; set an address",
    ),
    ({"guard": {"keySecret": "a"}}, "guard.keySecret: settings.guard.kind is none, which has no endpoint"),
    (
        {"guard": {"keySecret": "a"}, **settings(guard={"kind": "model", "url": "http://g", "api_key_file": "/k"})},
        "guard.keySecret: settings.guard.api_key_file is set as well; keep one of them",
    ),
    ({"files": {"a": "b" * 900_001}}, "files: 900001 bytes do not fit into a ConfigMap"),
    (settings(license={"bundle": "/b"}), "settings.license.bundle: the chart sets it; set notice.files"),
    ({"image": {"digest": "sha256:" + "0" * 64}, "settings": {"license": {"image": "a@b"}}}, "settings.license.image:"),
    ({"resources": GPU}, "resources.limits: 1 GPUs, and settings.accelerator.name is cpu"),
    (settings(accelerator={"name": "l40s"}), "resources.limits: 0 GPUs, and one pod runs 1 replicas of 1 devices"),
    (
        {"resources": GPU, "settings": {"accelerator": {"name": "l40s"}, "engine": {"tensor_parallel_size": 2}}},
        "set it to 2",
    ),
    ({"weights": {"download": True}}, "weights.download: needs a repository in settings.model.source"),
    (
        {"weights": {"download": True}, "settings": {"model": {"source": "/models/x", "revision": COMMIT}}},
        "weights.download: needs a repository in settings.model.source, which is /models/x",
    ),
    (
        {"weights": {"download": True}, "settings": {"model": {"source": "a/b", "revision": "main"}}},
        "settings.model.revision: a download needs a commit of 40 hex digits",
    ),
    (
        settings(guard={"kind": "nemo", "url": "http://guard:8000", "config_id": "x"}),
        "networkPolicy.guard: no egress rule allows http://guard:8000",
    ),
    ({"plan": {**PLAN, "model": "other"}}, "plan.model: planned for other, and settings.model.id is demo"),
    ({"plan": {**PLAN, "accelerator": "l4"}}, "plan.accelerator: planned for l4"),
    (
        {"plan": PLAN, **settings(engine={"version": "0.30.0"})},
        "plan.engine: planned for vLLM 0.29.0, and settings.engine.version is 0.30.0",
    ),
    (
        settings(access={"limits_url": "redis://limits:6379/0"}),
        "networkPolicy.redis: no egress rule allows redis://limits:6379/0 (settings.access.limits_url)",
    ),
    (
        {**RAY, **settings(access={"limits_url": "redis://limits:6379/0"})},
        "networkPolicy.redis: no egress rule allows redis://limits:6379/0 (settings.access.limits_url)",
    ),
    ({"plan": {**PLAN, "devices": 2}}, "plan.devices: planned for 2 devices, and the settings use 1"),
    (
        {"plan": PLAN, **settings(engine={"max_num_seqs": 10})},
        "settings.engine.max_num_seqs: 10 exceeds the 9 with which the engine starts",
    ),
    (
        {"plan": PLAN, **settings(engine={"max_model_len": 101})},
        "settings.engine.max_model_len: 101 tokens do not fit into the 100 of the plan",
    ),
    ({**RAY, "autoscaling": {"scaler": "keda"}}, "autoscaling.scaler: Ray's autoscaler scales mode rayservice"),
    ({"autoscaling": {"scaler": "hpa"}, "replicaCount": 2}, "replicaCount: autoscaling.scaler hpa sets the number"),
    (
        {"autoscaling": {"scaler": "keda"}, **settings(scaling={"min_replicas": 0})},
        "settings.scaling.min_replicas: without a pod nothing would queue the first request",
    ),
    (
        {"autoscaling": {"scaler": "keda"}, **settings(scaling={"policy": "queue_length"})},
        "settings.scaling.policy: queue_length is Ray Serve's own policy",
    ),
    (
        {"autoscaling": {"scaler": "keda"}, **settings(server={"data_path": "haproxy"})},
        "settings.server.data_path: with autoscaling.scaler each pod runs one engine",
    ),
    (
        {"autoscaling": {"scaler": "hpa"}, "podDisruptionBudget": {"minAvailable": 1}},
        "podDisruptionBudget.minAvailable: 1 of the 1 pods that always run must stay",
    ),
    (
        {
            "autoscaling": {"scaler": "hpa"},
            "strategy": "Recreate",
            "weights": {"cache": {"persistent": True}},
            **settings(scaling={"max_replicas": 3}),
        },
        "weights.cache.accessModes: 3 pods cannot share a ReadWriteOnce claim",
    ),
    ({"auth": {"keys": "k", "existingSecret": "s"}}, "auth.keys: auth.existingSecret is set as well"),
    (
        {"weights": {"token": "t", "existingSecret": "s", "download": True}},
        "weights.token: weights.existingSecret is set as well",
    ),
    ({"weights": {"token": "t"}}, "weights.download: a token is given, and nothing is downloaded"),
    (
        {"weights": {"cache": {"persistent": True, "existingClaim": "c"}}},
        "weights.cache.persistent: weights.cache.existingClaim is set as well",
    ),
    (settings(telemetry={"metrics_port": 1}), "settings.telemetry.metrics_port: the chart sets it; remove it"),
    ({"ingress": {"enabled": True}}, "ingress.hosts: the Ingress has no host"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: the route attaches to no Gateway"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name: serviceAccount.create is false"),
    ({"extraVolumes": [{"name": "shm", "emptyDir": {}}]}, "extraVolumes: shm is a volume of the chart"),
    ({"image": {"tag": "latest"}}, "image.tag: latest is another image after each push; set a version, or leave"),
    ({"check": {"image": {"tag": "latest"}}}, "check.image.tag: latest is another image after each push"),
    (
        {"image": {"registry": "a.example/team", "repository": "a.example/team/hybridserve"}},
        "image.repository: a.example/team/hybridserve names the registry, which image.registry (a.example/team) adds",
    ),
    (
        {"image": {"repository": "a.example/hybridserve"}, "global": {"imageRegistry": "a.example"}},
        "image.repository: a.example/hybridserve names the registry, which global.imageRegistry (a.example) adds",
    ),
    (
        {"image": {"registry": "a.example"}, "check": {"image": {"repository": "a.example/control"}}},
        "check.image.repository: a.example/control names the registry, which image.registry (a.example) adds",
    ),
    (
        {"extraEnv": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]},
        "extraEnv: A has value and valueFrom; keep one of them",
    ),
    ({"extraEnv": [{"name": "HF_TOKEN", "value": "x"}]}, "extraEnv: HF_TOKEN is a secret as plain text"),
    ({**RAY, "replicaCount": 2}, "replicaCount: belongs to mode standalone"),
    (
        {**RAY, **settings(server={"data_path": "single"})},
        "settings.server.data_path: single is one engine without Ray; set mode to standalone",
    ),
    (
        {"mode": "rayservice", "ray": {"token": {"existingSecret": "t", "value": "v"}}},
        "ray.token.value: ray.token.existingSecret is set as well",
    ),
    (
        {"mode": "rayservice", "ray": {"token": {"value": "v"}, "redis": {"existingSecret": "r"}}},
        "ray.redis.address: a password is given, and no Redis",
    ),
    (
        {"mode": "rayservice", "ray": {"token": {"value": "v"}, "redis": {"address": "redis://r:1"}}},
        "networkPolicy.redis: no egress rule allows redis://r:1",
    ),
    (
        {"mode": "rayservice", "ray": {"upgradeStrategy": "NewClusterWithIncrementalUpgrade",
         "autoscaler": {"enabled": False}}},
        "ray.autoscaler.enabled: incremental upgrades need the autoscaler",
    ),
    (
        {"mode": "rayservice", "ray": {"upgradeStrategy": "NewClusterWithIncrementalUpgrade"}},
        "ray.incrementalUpgrade.gatewayClassName: incremental upgrades move traffic through a Gateway",
    ),
    (
        {"mode": "rayservice", "ray": {"upgradeStrategy": "NewClusterWithIncrementalUpgrade",
         "incrementalUpgrade": {"stepSizePercent": 50, "maxSurgePercent": 40}}},
        "ray.incrementalUpgrade.stepSizePercent: 50 is above maxSurgePercent 40",
    ),
    (
        {"mode": "rayservice", "httpRoute": {"enabled": True},
         "ray": {"upgradeStrategy": "NewClusterWithIncrementalUpgrade"}},
        "ray.upgradeStrategy: incremental upgrades create their own Gateway and HTTPRoute",
    ),
    (groups(GROUP, GROUP), "ray.workerGroups[1].name: a is used twice"),
    (
        groups({**GROUP, "minReplicas": 3, "maxReplicas": 2}),
        "ray.workerGroups[0].minReplicas: 3 is above maxReplicas 2",
    ),
    (groups({**GROUP, "replicas": 0}), "ray.workerGroups[0].replicas: 0 is not between minReplicas 1 and"),
    (
        {**groups(GROUP), **settings(accelerator={"name": "l40s"})},
        "ray.workerGroups[0].resources: no GPU in the limits",
    ),
    (
        {**groups(GROUP), "resources": GPU,
         **settings(accelerator={"name": "l40s"}, scaling={"max_replicas": 3})},
        "ray.workerGroups: 1 GPUs at most, and 3 replicas of 1 need 3",
    ),
    # settings
    (settings(accelerator={"name": "l40x"}), "settings.accelerator.name: l40x is not in the catalog; use one of"),
    (settings(scaling={"min_replicas": 3}), "settings.scaling.min_replicas: 3 is above max_replicas 1"),
    (settings(engine={"extra_args": {"port": 1}}), "settings.engine.extra_args: port changes how"),
    (
        {"check": {"enabled": False}, **settings(server={"profile": "production"})},
        "check.enabled: profile production requires the check",
    ),
    # what a person decides
    (settings(server={"profile": "production"}), "settings.license.accepted: profile production requires"),
    (settings(server={"profile": "staging"}), "settings.guard.kind: profile staging requires a guard"),
    (settings(server={"profile": "staging"}), "auth.existingSecret: profile staging requires API keys"),
    # weights
    ({"weights": {"cache": {"perPod": True, "existingClaim": "c"}}}, "weights.cache.perPod: a claim for all pods"),
    (
        {"replicaCount": 3, "strategy": "Recreate", "weights": {"cache": {"persistent": True}}},
        "weights.cache.accessModes: 3 pods cannot share a ReadWriteOnce claim",
    ),
    ({"weights": {"cache": {"persistent": True}}}, "strategy: a new pod cannot mount a ReadWriteOnce claim"),
    (
        {**RAY, "weights": {"cache": {"persistent": True}}},
        "weights.cache.accessModes: workers and the second cluster of an upgrade cannot share a ReadWriteOnce claim",
    ),
    (
        {"weights": {"download": True, "cache": {"persistent": True, "accessModes": ["ReadOnlyMany"]}}},
        "weights.cache.accessModes: a download cannot write to a ReadOnlyMany claim",
    ),
    ({"weights": {"download": True}}, "resources.limits: ephemeral-storage 16Gi does not hold the weights (40Gi)"),
    (settings(model={"id": "qwen3-8b"}), "weights.download: the pods have no weights of qwen3-8b"),
    ({"weights": {"endpoint": "http://mirror"}}, "weights.download: a mirror, proxy or certificate is given"),
    # resources
    ({"resources": {"requests": {"memory": "100Gi"}}}, "resources.requests: memory 100Gi is above the limit 8Gi"),
    (
        {"resources": {"requests": {"nvidia.com/gpu": 2}, **GPU}, **settings(accelerator={"name": "l40s"})},
        "resources.requests: nvidia.com/gpu is 2, and its limit is 1; extended resources need equal",
    ),
    ({"shmSize": "8Gi"}, "shmSize: 8Gi counts as memory of the container"),
    ({"rollingUpdate": {"maxSurge": 0}}, "rollingUpdate.maxUnavailable: 0 together with maxSurge 0"),
    # exposure
    ({"service": {"type": "NodePort"}}, "networkPolicy.clients: service.type NodePort needs clients outside"),
    ({"service": {"nodePort": 30000}}, "service.nodePort: type ClusterIP has no node port"),
    ({"service": {"loadBalancerClass": "a"}}, "service.type: load balancer fields are set, and the type is ClusterIP"),
    # objects
    ({"extraVolumes": [{"name": "a", "emptyDir": {}}] * 2}, "extraVolumes: a is defined twice"),
    ({"extraVolumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "extraVolumes: a is a hostPath"),
    (
        {"extraVolumes": [{"name": "a"}], "extraVolumeMounts": [{"name": "a", "mountPath": "/models/"}]},
        "extraVolumeMounts: /models/ is a path of the chart",
    ),
    ({"extraVolumeMounts": [{"name": "b", "mountPath": "/b"}]}, "extraVolumeMounts: b is not in extraVolumes"),
    ({"extraEnv": [{"name": "RAY_AUTH_MODE", "value": "x"}]}, "extraEnv: RAY_AUTH_MODE is reserved for the chart"),
    ({"extraEnv": [{"name": "A", "value": "x"}] * 2}, "extraEnv: A is set twice"),
    ({"containerSecurityContext": {"privileged": True}}, "containerSecurityContext: weakens the restricted"),
    ({"lifecycle": {"preStop": {"exce": {}}}}, "lifecycle.preStop: has no action"),
    # ray
    (
        {**RAY, **settings(scaling={"policy": "queue_length"})},
        "settings.scaling.target_ongoing_requests: policy queue_length needs it",
    ),
    ({**RAY, "strategy": "Recreate"}, "strategy: it and rollingUpdate belong to mode standalone; remove them"),
    ({**RAY, "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}, "strategy: it and rollingUpdate belong to mode"),
    ({"mode": "rayservice", "ray": {"version": "2.99.0"}}, "ray.version: the image of this chart has Ray"),
    (
        {"mode": "rayservice", "ray": {"token": {"enabled": False}}, **settings(server={"profile": "staging"})},
        "ray.token.enabled: without a token",
    ),
    (
        {"mode": "rayservice", "serviceAccount": {"create": False, "name": "a"}},
        "serviceAccount.headName: KubeRay binds a Role to the account of the head",
    ),
    ({"mode": "rayservice", "ray": {"objectStoreMiB": 1024}}, "ray.objectStoreMiB: 1024 MiB do not fit into shmSize"),
    (
        {**groups(GROUP), "resources": GPU,
         **settings(accelerator={"name": "l40s"}, engine={"tensor_parallel_size": 4})},
        "ray.workerGroups[0].resources: 1 GPUs, and tensor_parallel_size 4 would cross the network",
    ),
    (
        {**groups({**GROUP, "replicas": 2, "minReplicas": 2, "maxReplicas": 2}),
         "podDisruptionBudget": {"minAvailable": 2}},
        "podDisruptionBudget.minAvailable: 2 of the 2 workers that always run must stay",
    ),
    (
        {**RAY, **settings(model={"id": "/models/mine"})},
        "weights.cache.existingClaim: /models/mine is below /models, where each pod mounts a new, empty volume",
    ),
    (
        {**settings(model={"id": "/models/own"}, server={"profile": "staging"}),
         "weights": {"cache": {"persistent": True, "accessModes": ["ReadWriteMany"]}}},
        "weights.cache.existingClaim: profile staging checks the files of /models/own before the release makes a claim",
    ),
    (
        {**settings(model={"source": "/models/own"}), "weights": {"cache": {"perPod": True}}},
        "weights.cache.existingClaim: /models/own is below /models, where each pod mounts a new, empty volume",
    ),
]  # fmt: skip


def refusal(values: dict[str, Any], **options: Any) -> str:
    with pytest.raises(HelmError) as raised:
        template(values, **options)
    return str(raised.value)


@pytest.mark.parametrize(("values", "line"), CASES, ids=[line[:50] for _, line in CASES])
def test_rule(values: dict[str, Any], line: str) -> None:
    assert line in refusal(values)


def test_every_rule_has_a_case() -> None:
    files = sorted((CHART / "templates").glob("_validate*.tpl"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    text = re.sub(r"\{\{/\*.*?\*/\}\}", "", text, flags=re.DOTALL)
    rules = [re.sub(r"\{\{.*?\}\}", "*", line) for line in text.splitlines() if re.match(r"[a-z][\w.\[\]{} $]*:", line)]
    rules = [rule for rule in rules if ": " in rule and not rule.startswith("settings.*:")]
    assert len(rules) > 30
    said = "\n".join(line for values, _ in CASES for line in refusal(values).splitlines())
    missed = [rule for rule in rules if not re.search(".*".join(map(re.escape, rule[:70].split("*"))), said)]
    assert missed == []


def test_what_a_person_decides_is_one_list() -> None:
    """Before anything is created, and complete: with these three answers the chart renders."""
    values: dict[str, Any] = settings(server={"profile": "production"})
    said = refusal(values)
    assert "3 of the values cannot be used" in said
    assert [line.split(":")[0].strip() for line in said.splitlines() if ": profile production requires" in line] == [
        "settings.license.accepted",
        "settings.guard.kind",
        "auth.existingSecret",
    ]
    values["settings"] |= {
        "license": {"accepted": [{"license": "apache-2.0", "by": "Head of Legal", "accepted": "2026-11-20"}]},
        "guard": {"kind": "model", "url": "http://guard.guards.svc:8080/v1"},
    }
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "guards"}}}]
    template(values | {"auth": {"existingSecret": "keys"}, "networkPolicy": {"guard": peers}})


@pytest.mark.parametrize("old", [False, True], ids=["helm4", "helm3"])
def test_all_errors_at_once(old: bool) -> None:
    values = {"ingress": {"enabled": True}, "serviceAccount": {"create": False}}
    said = refusal(values, binary=HELM_3) if old else refusal(values)
    assert "3 of the values cannot be used" in said
    for path in ("ingress.hosts:", "networkPolicy.clients:", "serviceAccount.name:"):
        assert path in said


def test_a_plan_from_render_helm_refuses_more_sequences_than_start() -> None:
    values = values_of("nemotron-nano-9b-v2-a10g")
    most = values["plan"]["maxNumSeqs"]
    values["settings"]["engine"]["max_num_seqs"] = most
    template(values)
    values["settings"]["engine"]["max_num_seqs"] = most + 1
    assert f"{most + 1} exceeds the {most} with which the engine starts" in refusal(values)
