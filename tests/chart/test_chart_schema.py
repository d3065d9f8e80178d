"""The schema is strict to the last key, in step with values.yaml, and each refusal names the path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_helm import CHART, HELM_3, HELM_4, HelmError, template
from schema_walk import SCHEMA, closed, is_object, pointer, put, refused_by, resolve, walk

HELMS = pytest.mark.parametrize("binary", [HELM_3, HELM_4], ids=["helm3", "helm4"])
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
# Objects of Kubernetes that are passed through as they are, and mappings whose keys the user chooses.
FREE = {
    "global", "affinity", "topologySpreadConstraints", "extraVolumes", "extraEnv/0/valueFrom", "extraObjects",
    "extraEnvFrom/0/configMapRef", "extraEnvFrom/0/secretRef",
    "guard/deploy/affinity", "ray/head/affinity", "ray/workerGroups/0/affinity", "hookPods/affinity",
    "podSecurityContext",
    "containerSecurityContext", "lifecycle/preStop", "lifecycle/postStart", "httpGet", "exec", "tcpSocket", "grpc",
    "extraContainers/0", "extraInitContainers/0",
}  # fmt: skip
# Free because vLLM's JSON is.
FREE_SETTINGS = {"config", "hf_overrides", "speculative_config", "kv_transfer_config", "extra_args", "template_kwargs"}


def unknown_keys(said: str) -> dict[str, set[str]]:
    """Path to the keys that were refused there; Helm 3 and 4 have different validators and words."""
    found: dict[str, set[str]] = {}
    for where, keys in re.findall(r"at '(.*)': additional properties (.*) not allowed", said):
        found.setdefault(where, set()).update(re.findall(r"'([^']+)'", keys))
    for where, key in re.findall(r"- (.*): Additional property (.*) is not allowed", said):
        path = "" if where == "(root)" else "/" + where.replace(".", "/")
        found.setdefault(path, set()).add(key)
    return found


def refused_paths(said: str) -> set[str]:
    """Every path that was named."""
    found = set(re.findall(r"at '([^']*)'", said))
    return found | {"/" + where.replace(".", "/") for where in re.findall(r"^- ([A-Za-z0-9_.]+): ", said, re.M)}


def refusal(values: dict[str, Any], binary: Path = HELM_4) -> str:
    with pytest.raises(HelmError) as raised:
        template(values, binary=binary)
    return str(raised.value)


def test_every_object_of_ours_is_closed() -> None:
    for path, node in walk():
        if is_object(node) and pointer(path)[1:] not in FREE:
            assert closed(node), pointer(path)


def test_open_objects_are_the_known_ones() -> None:
    for path, node in walk():
        real = resolve(node)
        name = pointer(path)[1:]
        if real.get("type") == "object" and "properties" not in real and "additionalProperties" not in real:
            assert name in FREE or path[-1] in FREE, name
        if real.get("additionalProperties") is True:
            assert path[-1] in FREE_SETTINGS, name


def test_values_and_schema_are_in_step() -> None:
    def paths(tree: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for name, value in tree.items():
            found.add(f"{prefix}/{name}")
            if isinstance(value, dict):
                found |= paths(value, f"{prefix}/{name}")
        return found

    inside = ("/settings/", "/plan/", "/resources/", "/global", "/dnsConfig/", "/probes/", "/lifecycle/")
    known = {pointer(path) for path, _ in walk() if 0 not in path}
    mine = paths(VALUES)
    assert {path for path in mine - known if "/resources/" not in path and "podAnnotations/" not in path} == set()
    assert {path for path in known - mine if not any(part in f"{path}/" for part in inside)} == set()


def test_every_value_is_described() -> None:
    bare = [
        pointer(path)
        for path, node in walk()
        if 0 not in path
        and not is_object(node)
        and "description" not in node
        and not pointer(path).startswith(("/global", "/plan/", "/dnsConfig/", "/probes/", "/lifecycle/"))
        and "/resources/" not in pointer(path)
    ]
    assert bare == []


@HELMS
def test_a_typo_in_every_key_is_refused(binary: Path) -> None:
    values: dict[str, Any] = {}
    typos: dict[str, set[str]] = {}
    for path, _ in walk():
        *parent, name = path
        if isinstance(name, int):
            continue
        put(values, (*parent, f"{name}Typo"), "x")
        typos.setdefault(pointer(tuple(parent)) if parent else "", set()).add(f"{name}Typo")
    said = unknown_keys(refusal(values, binary))
    for where, names in typos.items():
        if where[1:] not in ("extraVolumes/0", "global", "extraContainers/0", "extraInitContainers/0"):
            assert said.get(where) == names, where
    assert sum(map(len, typos.values())) > 250


@HELMS
def test_a_wrong_value_in_every_leaf_is_refused(binary: Path) -> None:
    values: dict[str, Any] = {}
    leaves = [(path, node) for path, node in walk() if not is_object(node) and "items" not in resolve(node)]
    for path, node in leaves:
        if path != ("global",):
            put(values, path, refused_by(node))
    said = refusal(values, binary)
    named = refused_paths(said)
    missed = {pointer(path) for path, _ in leaves if path != ("global",)} - named
    # A mapping or list that is wrong inside is named with the key inside.
    assert {path for path in missed if not any(one.startswith(f"{path}/") for one in named)} == set()
    assert len(leaves) > 220


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"resources": {"limits": {"nvidia.com/gpu": "abc"}}}, "/resources/limits/nvidia.com~1gpu"),
        ({"replicaCount": -3}, "/replicaCount"),
        ({"replicaCount": "2"}, "/replicaCount"),
        ({"service": {"type": "Foo"}}, "/service/type"),
        ({"service": {"port": 99999999}}, "/service/port"),
        ({"replicaCout": 2}, "'replicaCout'"),
        ({"image": {"tag": "a b"}}, "/image/tag"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"runAsUser": 0}, "/runAsUser"),
        ({"drainSeconds": -1}, "/drainSeconds"),
        ({"shmSize": "1 GB"}, "/shmSize"),
        ({"commonLabels": {"a": "not a label!"}}, "/commonLabels/a"),
        ({"fullnameOverride": "Upper_Case"}, "/fullnameOverride"),
        ({"fullnameOverride": "a" * 41}, "/fullnameOverride"),
        ({"ray": {"upgradeStrategy": "Rolling"}}, "/ray/upgradeStrategy"),
        ({"ray": {"version": "2.51.0"}}, "/ray/version"),
        ({"ray": {"redis": {"address": "redis://:secret@redis:6379"}}}, "/ray/redis/address"),
        ({"ray": {"workerGroups": []}}, "/ray/workerGroups"),
        ({"settings": {"engine": {"max_num_seq": 4}}}, "'max_num_seq'"),
        ({"settings": {"engine": {"gpu_memory_utilization": 1.5}}}, "/settings/engine/gpu_memory_utilization"),
        ({"settings": {"guard": {"kind": "maybe"}}}, "/settings/guard/kind"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
        ({"monitoring": {"interval": "often"}}, "/monitoring/interval"),
        ({"plan": {"model": "demo"}}, "/plan"),
        # The old name of plan.poolKnown: the message has both.
        ({"plan": {"exact": True}}, "at '/plan': additional properties 'exact' not allowed"),
        ({"plan": {"exact": True}}, "'poolKnown'"),
        ({"weights": {"cache": {"size": "0"}}}, "/weights/cache/size"),
        ({"networkPolicy": {"clients": [{"podSelector": {"matchLables": {"a": "b"}}}]}}, "'matchLables'"),
    ],
)
def test_nonsense_is_refused_with_its_path(values: dict[str, Any], path: str) -> None:
    assert path in refusal(values)


def test_the_schema_has_no_rule_whose_error_names_no_value() -> None:
    """The error of `not` is "'not' failed", so such rules are in the templates."""

    def keywords(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from schema
            for each in schema.values():
                yield from keywords(each)
        elif isinstance(schema, list):
            for each in schema:
                yield from keywords(each)

    assert "not" not in set(keywords(SCHEMA))


def test_schema_is_valid_json_schema() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)
    assert not list(Draft202012Validator(SCHEMA).iter_errors(VALUES))
