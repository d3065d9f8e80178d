"""Single objects: notes and warnings, policies, hooks, the claim that stays, times that follow from one number."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from chart_cases import values_of
from chart_helm import CHART, Object, helm, only, template

from hybridserve.observability.rules.alerts import RELEASE


def notes(values: dict[str, Any]) -> str:
    words = ("install", "demo", str(CHART), "--dry-run=client", "--namespace", "serving")
    return helm(*words, "--values", "-", stdin=yaml.safe_dump(values)).partition("NOTES:")[2]


def pod_of(objects: list[Object], kind: str) -> dict[str, Any]:
    return dict(only(objects, kind)["spec"]["template"]["spec"])


def test_notes_show_access_and_warnings() -> None:
    said = notes(values_of("standalone-secrets"))
    assert "port-forward service/demo 8000:8000" in said
    assert "helm test demo -n serving" in said
    for warned in ("settings.guard.kind", "networkPolicy.enabled", "check.enabled", "image.digest", "replicaCount",
                   "release record"):  # fmt: skip
        assert warned in said
    assert "auth:" not in said


@pytest.mark.parametrize("values", [{}, {"autoscaling": {"scaler": "keda"}}, {"mode": "rayservice"}], ids=str)
def test_a_port_forward_is_a_line_of_its_own(values: dict[str, Any]) -> None:
    """In the background of one line, the request comes before it listens."""
    lines = [line for line in notes(values).splitlines() if "port-forward " in line and "kubectl" in line]
    assert lines
    assert all(re.search(r" \d+(:\d+)?$", line) for line in lines), lines


def test_production_values_have_no_warnings() -> None:
    values = values_of("standalone-production")
    said = notes(values)
    assert "https://assistant.example/v1" in said
    assert "Warnings:" not in said


@pytest.mark.parametrize("autoscaler", [True, False])
def test_printed_patch_makes_the_worker_groups_of_the_values(autoscaler: bool) -> None:
    """The command applies what KubeRay leaves out: with Ray's autoscaler all but `replicas`, which that one writes."""
    values = values_of("rayservice-incremental")
    values["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
    values["ray"] |= {
        "upgradeStrategy": "NewCluster",
        "autoscaler": {"enabled": autoscaler},
        "workerGroups": [
            {"name": "engine", "replicas": 2, "minReplicas": 1, "maxReplicas": 5},
            {"name": "other", "replicas": 3, "minReplicas": 2, "maxReplicas": 4, "tolerations": [{"key": "spot"}]},
        ],
    }
    lines = re.findall(r"patch raycluster \$CLUSTER --type json -p '(.*)'", notes(values))
    changes = {change["path"]: change["value"] for line in lines for change in json.loads(line)}
    names = {"minReplicas", "maxReplicas", *(() if autoscaler else ("replicas",))}
    expected = {}
    for index, group in enumerate(only(template(values), "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]):
        path = f"/spec/workerGroupSpecs/{index}"
        expected |= {f"{path}/{name}": group[name] for name in names}
        expected[f"{path}/template/spec/tolerations"] = group["template"]["spec"]["tolerations"]
    assert changes == expected


def test_incremental_upgrades_use_the_gateway_of_kuberay() -> None:
    """KubeRay then makes a Gateway, and no Service of the release's name that notes or test could name."""
    values = values_of("rayservice-incremental")
    said = notes(values)
    assert "get gateway demo-gateway" in said
    assert "port-forward" not in said
    assert "test.url: helm test needs the address" in said
    assert not [one for one in template(values) if one["metadata"]["name"] == "demo-test" and one["kind"] == "Pod"]
    values["test"] = {"url": "http://public.gateways:80"}
    assert only(template(values), "Pod")["spec"]["containers"][0]["args"] == [
        "http://public.gateways:80",
        "open",
        "300",
        "unverified",
    ]
    assert "test.url" not in notes(values)


def test_probes_and_grace_follow_from_drain_and_startup_seconds() -> None:
    objects = template({"drainSeconds": 300, "startupSeconds": 1201})
    pod = pod_of(objects, "Deployment")
    (container,) = pod["containers"]
    slept = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    settings = yaml.safe_load(only(objects, "ConfigMap", "demo-settings")["data"]["hybridserve.yaml"])
    assert settings["server"]["drain_timeout_s"] == 300
    assert settings["server"]["ready_timeout_s"] == 1201
    assert slept + 300 < pod["terminationGracePeriodSeconds"] <= slept + 330
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1201


def test_probe_paths() -> None:
    (container,) = pod_of(template({}), "Deployment")["containers"]
    paths = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")]
    assert paths == ["/ready", "/ready", "/health"]


def policies(case: str) -> dict[str, Any]:
    return {one["metadata"]["name"]: one["spec"] for one in template(values_of(case)) if one["kind"] == "NetworkPolicy"}


@pytest.mark.parametrize("case", ["defaults", "standalone-production", "rayservice"])
def test_default_policy_denies_all_traffic(case: str) -> None:
    deny = policies(case)["demo-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    assert deny["podSelector"]["matchLabels"] == {"hybridserve.io/release": "demo"}


def test_only_the_public_port_is_open() -> None:
    spec = policies("standalone-production")["demo-engine"]
    clients, monitoring = spec["ingress"]
    assert clients["ports"] == [{"port": 8000, "protocol": "TCP"}]
    # One replica, and the controller that scales it.
    assert monitoring["ports"] == [{"port": port, "protocol": "TCP"} for port in (9464, 9465)]
    assert all(rule["from"] for rule in spec["ingress"])  # an empty list would be everybody
    assert all(rule.get("to") for rule in spec["egress"])
    guard = [rule for rule in spec["egress"] if rule["ports"] == [{"port": 8080, "protocol": "TCP"}]]
    assert len(guard) == 1  # the port stands in settings.guard.url


def test_service_keeps_a_client_on_one_pod_where_asked() -> None:
    for values, expected in (({}, "None"), ({"service": {"sessionAffinity": "ClientIP"}}, "ClientIP")):
        assert (
            only(template(values_of("standalone-production") | values), "Service")["spec"]["sessionAffinity"]
            == expected
        )


def test_ray_ports_are_open_to_ray_and_operator() -> None:
    found = policies("rayservice")
    ray = found["demo-ray"]
    inside, operator = ray["ingress"]
    assert "ports" not in inside
    assert inside["from"][0]["podSelector"]["matchLabels"]["hybridserve.io/release"] == "demo"
    assert operator["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    clients = found["demo-engine"]["ingress"][0]
    assert [port["port"] for port in clients["ports"]] == [8000]
    assert not any(rule["ports"][0]["port"] == 8000 for rule in found["demo-head"]["ingress"])


def test_claim_is_kept_on_uninstall() -> None:
    claim = only(template(values_of("nemotron-nano-9b-v2-l40s")), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    values = {"strategy": "Recreate", "weights": {"cache": {"persistent": True, "keepOnUninstall": False}}}
    assert "annotations" not in only(template(values), "PersistentVolumeClaim")["metadata"]


def test_check_job_gets_the_settings_of_the_engine() -> None:
    objects = template(values_of("standalone-production"))
    judged = only(objects, "ConfigMap", "demo-check")
    assert judged["data"]["hybridserve.yaml"] == only(objects, "ConfigMap", "demo-settings")["data"]["hybridserve.yaml"]
    job = only(objects, "Job")
    for hook in (judged, job):
        assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    order = [int(hook["metadata"]["annotations"]["helm.sh/hook-weight"]) for hook in (judged, job)]
    assert order == sorted(order)
    assert order[0] < order[1]
    assert job["spec"]["backoffLimit"] == 0
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/ai/hybridserve-check:0.1.0"
    assert {"name": "rules", "mountPath": "/etc/guard-rules", "readOnly": True} in container["volumeMounts"]


def test_check_job_reads_the_folder_of_a_claim() -> None:
    """The folder has no commit, so outside of profile demo the check refuses what it cannot read."""
    base = values_of("standalone-production")
    base["settings"] |= {"model": {**base["settings"]["model"], "source": "/models/nano"}}
    base |= {"weights": {"download": False, "cache": {"existingClaim": "models"}}}
    pod = only(template(base), "Job")["spec"]["template"]["spec"]
    assert {"name": "weights", "mountPath": "/models", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "models"}} in pod["volumes"]
    (near,) = pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    engine = only(template(base), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert near["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= engine.items()
    base["settings"]["model"]["source"] = "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
    pod = only(template(base), "Job")["spec"]["template"]["spec"]
    assert "weights" not in [volume["name"] for volume in pod["volumes"]]
    assert "affinity" not in pod


def test_notice_is_mounted_at_license_bundle() -> None:
    objects = template(values_of("standalone-production"))
    data = only(objects, "ConfigMap", "demo-notice")["data"]
    assert "NVIDIA Open Model License" in data["NOTICE"]
    assert "Apache License" in data["hybridserve-LICENSE"]
    settings = yaml.safe_load(only(objects, "ConfigMap", "demo-settings")["data"]["hybridserve.yaml"])
    (container,) = pod_of(objects, "Deployment")["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[settings["license"]["bundle"]] == "notice"


def test_a_reference_makes_every_replica_check_its_engine() -> None:
    """The file that the settings name is mounted, in both modes, and another reference makes new pods."""
    reference = '{"schema": "hybridserve.reference/1"}'
    objects = template({"verify": {"reference": reference}})
    assert only(objects, "ConfigMap", "demo-verify")["data"] == {"reference.json": reference}
    settings = yaml.safe_load(only(objects, "ConfigMap", "demo-settings")["data"]["hybridserve.yaml"])
    assert settings["verify"]["at_start"] is True
    folder, _, file = settings["verify"]["reference_file"].rpartition("/")
    assert file == "reference.json"
    (container,) = pod_of(objects, "Deployment")["containers"]
    assert {"name": "verify", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
    checksums = [
        only(template({"verify": {"reference": text}}), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        for text in ("a", "b")
    ]
    assert checksums[0]["checksum/verify"] != checksums[1]["checksum/verify"]
    ray = only(template({**values_of("rayservice"), "verify": {"reference": reference}}), "RayService")
    groups = ray["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for group in groups:
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert folder in [mount["mountPath"] for mount in mounts]
    assert not [one for one in template({}) if one["metadata"]["name"] == "demo-verify"]


@pytest.mark.parametrize(
    ("values", "verified"),
    [
        ({}, "unverified"),
        ({"settings": {"verify": {"at_start": True}}}, "itself"),
        ({"verify": {"reference": '{"schema": "hybridserve.reference/1", "sha256": "12ab"}'}}, "12ab"),
    ],
)
def test_helm_test_requires_the_verdict_of_this_release(values, verified) -> None:
    """A replica of the release before it, checked against nothing or another reference, does not count."""
    pod = only(template(values), "Pod", "demo-test")
    assert pod["spec"]["containers"][0]["args"][-1] == verified
    code = "import sys; sys.path.insert(0, sys.argv[1]); import smoke, json; "
    code += "print([smoke.is_verified(body, sys.argv[2]) for body in json.loads(sys.argv[3])])"
    bodies = [
        {"ready": True},
        {"verify": {"passed": False, "reference": "12ab"}},
        {"verify": {"passed": True, "reference": ""}},
        {"verify": {"passed": True, "reference": "12ab"}},
    ]
    words = [sys.executable, "-B", "-c", code, str(CHART / "files"), verified, json.dumps(bodies)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    wanted = {"unverified": [True] * 4, "itself": [False, False, True, True], "12ab": [False, False, False, True]}
    assert json.loads(done.stdout.lower()) == wanted[verified]


@pytest.mark.parametrize("kind", ["dashboards", "rules"])
def test_rules_and_dashboards_are_rendered(kind: str) -> None:
    files = sorted((CHART / "files" / kind).glob("*"))
    objects = template(values_of("standalone-production"))
    if kind == "rules":
        groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
        assert only(objects, "PrometheusRule", "demo-rules")["spec"]["groups"] == groups
    else:
        rendered = [one for one in objects if "grafana_dashboard" in one["metadata"].get("labels", {})]
        assert [next(iter(one["data"].values())) for one in rendered] == [file.read_text() for file in files]


@pytest.mark.parametrize("case", ["standalone-production", "rayservice"])
def test_alerts_know_what_should_exist(case: str) -> None:
    """`hybridserve:release_info` names the release, its objects and its claim, as the scraped series do."""
    objects = template(values_of(case) | {"monitoring": {"monitor": {"enabled": True}}}, release="prod")
    (group,) = only(objects, "PrometheusRule", "prod-release")["spec"]["groups"]
    (rule,) = group["rules"]
    assert rule["record"] == RELEASE
    labels = rule["labels"]
    if case == "rayservice":
        main = only(objects, "RayService")
        pods = main["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]
    else:
        main = only(objects, "Deployment")
        pods = main["spec"]["template"]
    assert (labels["release"], labels["namespace"]) == (main["metadata"]["name"], main["metadata"]["namespace"])
    assert only(objects, "PodDisruptionBudget")["metadata"]["name"] == labels["release"]
    (weights,) = [one for one in pods["spec"]["volumes"] if one["name"] == "weights"]
    assert labels["claim"] == weights["persistentVolumeClaim"]["claimName"]
    for endpoint in only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]:
        fixed = {one["targetLabel"]: one["replacement"] for one in endpoint["relabelings"] if "replacement" in one}
        assert fixed["release"] == labels["release"]
        assert fixed.get("model", labels["model"]) == labels["model"]


def test_rules_and_dashboards_can_be_installed_once_for_all_releases() -> None:
    """As docs/how-to/deploy-on-kubernetes.md shows: objects that belong to no serving release."""
    shown = [f"--show-only=templates/monitoring/{name}.yaml" for name in ("prometheusrule", "dashboards")]
    values = {"monitoring": {"rules": {"enabled": True}, "dashboards": {"enabled": True}}}
    objects = template(values, *shown, release="monitoring")
    assert {one["kind"] for one in objects} == {"PrometheusRule", "ConfigMap"}
    keys = [key for one in objects for key in one.get("data", {})]
    assert len(keys) == len(set(keys)) == 7
    assert not set(keys) & {key for one in template(values, *shown, release="other") for key in one.get("data", {})}


def test_extra_objects_are_templates() -> None:
    objects = template(values_of("standalone-production"))
    names = {one["metadata"]["name"] for one in objects}
    assert {"demo-extra", "demo-extra-text"} <= names


def test_secrets_from_values_and_existing_secrets() -> None:
    given = template(values_of("standalone-secrets"))
    secret = only(given, "Secret")
    assert secret["stringData"] == {"keys": "demo:hash-of-a-key"}
    volumes = {one["name"]: one for one in pod_of(given, "Deployment")["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == secret["metadata"]["name"]
    brought = template({"auth": {"existingSecret": "mine", "secretKey": "file"}})
    assert not [one for one in brought if one["kind"] == "Secret"]
    volumes = {one["name"]: one for one in pod_of(brought, "Deployment")["volumes"]}
    assert volumes["keys"]["secret"] == {"secretName": "mine", "items": [{"key": "file", "path": "keys"}]}


LIMITS = {"settings": {"access": {"limits_url": "redis://limits:6380/0"}}}


@pytest.mark.parametrize("mode", ["standalone", "rayservice"])
def test_the_server_of_limits_is_reached_from_every_replica(mode: str) -> None:
    """A worker of Ray runs replicas as a pod of mode standalone does. A socket is reached without a network."""
    peers = [{"podSelector": {"matchLabels": {"app": "limits"}}}]
    objects = template(LIMITS | {"mode": mode, "networkPolicy": {"redis": peers}})
    egress = only(objects, "NetworkPolicy", "demo-engine")["spec"]["egress"]
    assert {"to": peers, "ports": [{"port": 6380, "protocol": "TCP"}]} in egress
    worker = {"rayservice": "worker", "standalone": "engine"}[mode]
    labels = only(objects, "NetworkPolicy", "demo-engine")["spec"]["podSelector"]["matchLabels"]
    assert labels["app.kubernetes.io/component"] == worker
    template({"mode": mode, "settings": {"access": {"limits_url": "unix:///sockets/redis"}}})


def test_limits_of_several_pods_take_the_password_from_a_secret() -> None:
    given = template(LIMITS | {"auth": {"limitsSecret": "redis"}, "networkPolicy": {"redis": [{"podSelector": {}}]}})
    pod = pod_of(given, "Deployment")
    volumes = {one["name"]: one for one in pod["volumes"]}
    password = {"secretName": "redis", "items": [{"key": "password", "path": "password"}]}
    assert volumes["limits-password"]["secret"] == password
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    settings = "\n".join("\n".join(one["data"].values()) for one in given if one["kind"] == "ConfigMap")
    assert f"limits_password_file: {mounts['limits-password']}/password" in settings


def test_check_image_uses_the_registry_of_the_engine() -> None:
    def images(values: dict[str, Any]) -> list[str]:
        objects = template(values)
        return [
            pod_of(objects, "Job")["containers"][0]["image"],
            only(objects, "Pod")["spec"]["containers"][0]["image"],
        ]

    assert images({}) == ["hybridserve:0.1.0-control"] * 2
    assert images({"image": {"registry": "a.example"}}) == ["a.example/hybridserve:0.1.0-control"] * 2
    own = {"image": {"registry": "a.example", "tag": "7"}, "check": {"image": {"repository": ""}}}
    assert images(own) == ["a.example/hybridserve:7"] * 2
