"""Random valid values render to objects that an API server accepts and that are restricted."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
from chart_helm import HelmError, template
from crd_schema import errors, validators
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pod_security import pods, violations

# Shrinking a failing example costs minutes of rendering.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)

NAME = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
LABELS = st.dictionaries(NAME, NAME, max_size=2)
QUANTITY = st.sampled_from(["1Gi", "512Mi", "3G", "10Gi"])
RESOURCES = st.fixed_dictionaries(
    {
        "requests": st.fixed_dictionaries(
            {"cpu": st.sampled_from(["1", "500m", 2]), "memory": st.sampled_from(["1Gi", "512Mi", "8Gi"])}
        )
    },
    optional={"limits": st.fixed_dictionaries({"memory": st.sampled_from(["10Gi", "64Gi"])})},
)
PEER = st.fixed_dictionaries({"podSelector": st.fixed_dictionaries({"matchLabels": LABELS})})
PEERS = st.lists(PEER, max_size=2)
TOLERATIONS = st.lists(st.fixed_dictionaries({"key": NAME, "operator": st.just("Exists")}), max_size=2)
SWITCH = st.booleans()
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
SECRET = st.one_of(st.just(""), NAME)


@st.composite
def worker_groups(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    made = []
    for name in names:
        low, middle, high = sorted(draw(st.lists(st.integers(0, 5), min_size=3, max_size=3)))
        group = {"name": name, "minReplicas": low, "replicas": middle, "maxReplicas": max(1, high)}
        if draw(SWITCH):
            group["tolerations"] = draw(TOLERATIONS)
        if draw(SWITCH):
            group["resources"] = draw(RESOURCES)
        if draw(SWITCH):
            group["acceleratorType"] = draw(st.sampled_from(["L40S", "H100"]))
        made.append(group)
    return made


def optional(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=parts)


VALUES = optional(
    commonLabels=LABELS,
    commonAnnotations=LABELS,
    nameOverride=SECRET,
    namespaceOverride=SECRET,
    image=optional(registry=SECRET, repository=NAME, tag=NAME, pullPolicy=st.sampled_from(["Always", "Never"])),
    replicaCount=st.integers(0, 5),
    strategy=st.sampled_from(["RollingUpdate", "Recreate"]),
    startupSeconds=st.integers(10, 86400),
    drainSeconds=st.integers(0, 86400),
    resources=RESOURCES,
    shmSize=st.sampled_from(["512Mi", "1Gi", "2G"]),
    tmpSize=QUANTITY,
    runAsUser=st.none() | st.integers(10001, 4294967294),
    nodeSelector=LABELS,
    tolerations=TOLERATIONS,
    priorityClassName=SECRET,
    runtimeClassName=SECRET,
    podLabels=LABELS,
    podAnnotations=LABELS,
    weights=optional(
        cache=optional(
            persistent=SWITCH,
            accessModes=st.just(["ReadWriteMany"]),
            size=QUANTITY,
            storageClassName=SECRET,
            keepOnUninstall=SWITCH,
        )
    ),
    compileCache=optional(existingClaim=SECRET, size=QUANTITY),
    auth=st.one_of(optional(existingSecret=SECRET), optional(keys=SECRET)),
    service=optional(type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]), port=st.integers(1, 65535)),
    ingress=st.fixed_dictionaries({"enabled": SWITCH, "hosts": st.just([{"host": "a.example"}])}),
    httpRoute=st.fixed_dictionaries({"enabled": SWITCH, "parentRefs": st.just([{"name": "public"}])}),
    podDisruptionBudget=optional(enabled=SWITCH, maxUnavailable=st.sampled_from([1, 2, "50%"])),
    hookPods=optional(tolerations=TOLERATIONS, nodeSelector=LABELS, labels=LABELS, annotations=LABELS),
    probes=optional(startup=st.just({"failureThreshold": 9}), readiness=st.just({"periodSeconds": 2})),
    dnsConfig=st.just({"options": [{"name": "ndots", "value": "2"}]}),
    global_=optional(imageRegistry=SECRET, imagePullSecrets=st.just([{"name": "a"}])),
    monitoring=st.fixed_dictionaries({"monitor": st.fixed_dictionaries({"enabled": SWITCH})}),
    check=optional(enabled=SWITCH, deadlineSeconds=st.integers(10, 3600)),
    notice=optional(files=st.dictionaries(NAME, PRINTABLE, max_size=2)),
)
NETWORK = st.fixed_dictionaries(
    {"enabled": SWITCH, "clients": st.lists(PEER, min_size=1, max_size=2)},
    optional={"monitoring": PEERS, "operator": PEERS, "dns": PEERS, "apiServer": PEERS},
)
RAY = st.fixed_dictionaries(
    {"token": st.sampled_from([{}, {"existingSecret": "token"}]), "workerGroups": worker_groups()},
    optional={
        "autoscaler": optional(enabled=SWITCH, idleTimeoutSeconds=st.integers(1, 86400)),
        "head": optional(tolerations=TOLERATIONS, nodeSelector=LABELS, podLabels=LABELS),
        "newClusterOnResize": SWITCH,
        "maxSurgePercent": st.integers(0, 100),
    },
)


def check(values: dict[str, Any], release: str) -> None:
    values = {**values, "global": values.get("global_", {})}
    values.pop("global_", None)
    if values.get("weights", {}).get("cache", {}).get("persistent"):
        values["weights"]["cache"]["accessModes"] = ["ReadWriteMany"]
    objects = template(values, release=release)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    for one in objects:
        if (one["apiVersion"], one["kind"]) in validators():
            assert errors(one) == []
        else:
            kubernetes_validate.validate(one, "1.33", strict=True)
        for where, spec in pods(one):
            assert violations(spec) == [], where
        metadata = one["metadata"]
        assert metadata["namespace"] == (values.get("namespaceOverride") or "serving")
        assert values.get("commonLabels", {}).items() <= metadata["labels"].items()
        assert metadata["labels"]["app.kubernetes.io/instance"] == release


@settings(max_examples=40, phases=UNSHRUNK)
@given(values=VALUES, network=NETWORK, release=NAME)
def test_standalone(values: dict[str, Any], network: dict[str, Any], release: str) -> None:
    check({**values, "networkPolicy": network}, release)


@settings(max_examples=25, phases=UNSHRUNK)
@given(values=VALUES, network=NETWORK, ray=RAY, release=NAME)
def test_rayservice(values: dict[str, Any], network: dict[str, Any], ray: dict[str, Any], release: str) -> None:
    of_standalone = {"replicaCount": 1, "strategy": "RollingUpdate"}  # refused in this mode
    check({**values, **of_standalone, "networkPolicy": network, "mode": "rayservice", "ray": ray}, release)


@settings(max_examples=30, phases=UNSHRUNK)
@given(wrong=st.recursive(st.none() | SWITCH | st.integers() | PRINTABLE, st.lists, max_leaves=3))
def test_wrong_settings_are_refused_with_their_path(wrong: Any) -> None:
    """Templates render or refuse with a path; none fails on a value that the schema accepts."""
    for values in ({"settings": {"model": wrong}}, {"settings": {"engine": {"max_num_seqs": wrong}}}):
        said = refusal(values)
        assert said is None or "/settings/" in said or "settings." in said


def refusal(values: dict[str, Any]) -> str | None:
    try:
        template(values)
    except HelmError as error:
        return str(error)
    return None
