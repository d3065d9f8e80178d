"""What takes two values to be wrong is refused at render: every rule, with its path, and all of them at once."""

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
        "maxModelLen": 100, "exact": True}  # fmt: skip
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
    (settings(license={"bundle": "/b"}), "settings.license.bundle: the chart sets it; set notice.files"),
    ({"image": {"digest": "sha256:" + "0" * 64}, "settings": {"license": {"image": "a@b"}}}, "settings.license.image:"),
    ({"resources": GPU}, "resources.limits: asks for 1 GPUs, and settings.accelerator.name is cpu"),
    (settings(accelerator={"name": "l40s"}), "resources.limits: nvidia.com/gpu is 0, and 1 replicas of 1 devices"),
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
        "settings.model.revision: weights are fetched at one commit only",
    ),
    (
        settings(guard={"kind": "nemo", "url": "http://guard:8000", "config_id": "x"}),
        "networkPolicy.guard: settings.guard.url is http://guard:8000, and no way leads there",
    ),
    ({"plan": {**PLAN, "model": "other"}}, "plan.model: planned for other, and settings.model.id is demo"),
    ({"plan": {**PLAN, "accelerator": "l4"}}, "plan.accelerator: planned for l4"),
    ({"plan": {**PLAN, "devices": 2}}, "plan.devices: planned for 2 devices, and the settings spread over 1"),
    (
        {"plan": PLAN, **settings(engine={"max_num_seqs": 10})},
        "settings.engine.max_num_seqs: 10 exceeds the 9 Mamba cache blocks of the plan",
    ),
    (
        {"plan": PLAN, **settings(engine={"max_model_len": 101})},
        "settings.engine.max_model_len: 101 tokens do not fit into the 100 of the plan",
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
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: the route hangs on no Gateway"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name: none is made"),
    ({"extraVolumes": [{"name": "shm", "emptyDir": {}}]}, "extraVolumes: shm is a volume of the chart"),
    ({"extraEnv": [{"name": "HF_TOKEN", "value": "x"}]}, "extraEnv: HF_TOKEN holds a secret as plain text"),
    ({**RAY, "replicaCount": 2}, "replicaCount: belongs to mode standalone"),
    (
        {**RAY, **settings(server={"data_path": "single"})},
        "settings.server.data_path: single is one engine without Ray; set mode to standalone",
    ),
    ({"mode": "rayservice"}, "ray.token.existingSecret: the cluster asks for a token, and none is given"),
    (
        {"mode": "rayservice", "ray": {"token": {"existingSecret": "t", "value": "v"}}},
        "ray.token.value: ray.token.existingSecret is set as well",
    ),
    (
        {"mode": "rayservice", "ray": {"token": {"value": "v"}, "redis": {"existingSecret": "r"}}},
        "ray.redis.address: a password is named, and no Redis",
    ),
    (
        {"mode": "rayservice", "ray": {"token": {"value": "v"}, "redis": {"address": "redis://r:1"}}},
        "networkPolicy.redis: ray.redis.address is redis://r:1, and no way leads there",
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
        "ray.upgradeStrategy: incremental upgrades bring their own Gateway and HTTPRoute",
    ),
    (groups(GROUP, GROUP), "ray.workerGroups[1].name: a stands there twice"),
    (
        groups({**GROUP, "minReplicas": 3, "maxReplicas": 2}),
        "ray.workerGroups[0].minReplicas: 3 is above maxReplicas 2",
    ),
    (groups({**GROUP, "replicas": 0}), "ray.workerGroups[0].replicas: 0 is not between minReplicas 1 and"),
    (
        {**groups(GROUP), **settings(accelerator={"name": "l40s"})},
        "ray.workerGroups[0].resources: no nvidia.com/gpu in the limits",
    ),
    (
        {**groups(GROUP), "resources": GPU,
         **settings(accelerator={"name": "l40s"}, scaling={"max_replicas": 3})},
        "ray.workerGroups: hold 1 GPUs at most, and 3 replicas of 1 need 3",
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
    text = (CHART / "templates" / "_validate.tpl").read_text(encoding="utf-8")
    text = re.sub(r"\{\{/\*.*?\*/\}\}", "", text, flags=re.DOTALL)
    rules = [re.sub(r"\{\{.*?\}\}", "*", line) for line in text.splitlines() if re.match(r"[a-z][\w.\[\]{} $]*:", line)]
    rules = [rule for rule in rules if ": " in rule and not rule.startswith("settings.*:")]
    assert len(rules) > 30
    said = "\n".join(line for values, _ in CASES for line in refusal(values).splitlines())
    missed = [rule for rule in rules if not re.search(".*".join(map(re.escape, rule[:70].split("*"))), said)]
    assert missed == []


@pytest.mark.parametrize("old", [False, True], ids=["helm4", "helm3"])
def test_all_errors_at_once(old: bool) -> None:
    values = {"ingress": {"enabled": True}, "httpRoute": {"enabled": True}, "serviceAccount": {"create": False}}
    said = refusal(values, binary=HELM_3) if old else refusal(values)
    assert "3 of the values cannot be" in said
    for path in ("ingress.hosts:", "httpRoute.parentRefs:", "serviceAccount.name:"):
        assert path in said


def test_a_plan_from_render_helm_refuses_more_sequences_than_blocks() -> None:
    values = values_of("nemotron-nano-9b-v2-a10g")
    blocks = values["plan"]["numBlocks"]
    values["settings"]["engine"]["max_num_seqs"] = blocks
    template(values)
    values["settings"]["engine"]["max_num_seqs"] = blocks + 1
    assert f"{blocks + 1} exceeds the {blocks} Mamba cache blocks" in refusal(values)
