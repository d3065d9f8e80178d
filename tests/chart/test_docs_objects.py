"""Kubernetes objects that the how-to pages show are valid: strict against the CRD, or against Kubernetes itself."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from chart_cases import values_of
from chart_helm import ROOT, template
from crd_schema import errors, validators

PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
SHOWN: list[tuple[str, dict[str, Any]]] = [
    (page.stem, tree)
    for page in PAGES
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    for tree in yaml.safe_load_all(block)
    if isinstance(tree, dict) and {"apiVersion", "kind"} <= tree.keys()
]


@pytest.mark.parametrize(("page", "shown"), SHOWN, ids=[f"{page}-{tree['kind']}" for page, tree in SHOWN])
def test_object_is_valid(page: str, shown: dict[str, Any]) -> None:
    if (shown["apiVersion"], shown["kind"]) in validators():
        assert errors(shown) == []
    else:
        kubernetes_validate.validate(shown, "1.33", strict=True)


def test_pages_show_the_ways_to_balance() -> None:
    kinds = {tree["kind"] for page, tree in SHOWN if page == "balance-between-pods"}
    assert {"BackendTrafficPolicy", "InferencePool", "HTTPRoute"} <= kinds
    pool = next(tree for _, tree in SHOWN if tree["kind"] == "InferencePool")
    broken = {**pool, "spec": {**pool["spec"], "targetPort": 8000}}
    assert errors(broken)


def test_containers_that_pages_name_are_in_the_chart() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md")))
    named = set(re.findall(r"\bcontainers? `([\w-]+)`", text))
    pods = [
        tree["spec"]["template"]["spec"]
        for case in ("standalone-keda", "standalone-guard")
        for tree in template(values_of(case))
        if tree["kind"] == "Deployment"
    ]
    made = {one["name"] for pod in pods for one in [*pod["containers"], *pod.get("initContainers", [])]}
    assert named
    assert named <= made
