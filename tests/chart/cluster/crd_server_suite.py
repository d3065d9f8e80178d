"""Kubernetes 1.36's own server of custom resources, strict and with CEL: KubeRay's RayService and the other CRDs.

The API server of 1.20 in `api_server_suite` reads no CEL and drops unknown fields; this one refuses them. It is
Debian's package of `apiextensions-apiserver`, which asks the old server who may do what. KubeRay's operator does not
run here.
"""

from __future__ import annotations

import copy
import json
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chart_cases import CASES, values_of
from chart_helm import Object, template
from cluster import CRD_PORT, Cluster
from crd_schema import FOLDER, validators

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
STRICT = {"fieldValidation": "Strict"}
NAMES = [json.loads(file.read_text(encoding="utf-8"))["spec"]["names"] for file in FOLDER.glob("*.json")]
PLURALS = {one["kind"]: one["plural"] for one in NAMES}


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE  # its certificate is of its own making
    headers = {"Authorization": "Bearer admintoken"}
    with tempfile.TemporaryDirectory(prefix="hs-crds-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start(nodes=0)
            cluster.crd_server()
            client = httpx.Client(
                base_url=f"https://127.0.0.1:{CRD_PORT}", headers=headers, verify=anybody, trust_env=False, timeout=30
            )
            with client:
                cluster.wait("server of custom resources", lambda: answers(client), 60)
                for file in sorted(FOLDER.glob("*.json")):
                    crd = json.loads(file.read_text(encoding="utf-8"))
                    crd.pop("status", None)
                    made = client.post(CRDS, json=crd)
                    assert made.status_code == 201, made.text
                cluster.wait("CRDs", lambda: established(client), 60)
                yield client
        finally:
            cluster.stop()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").text == "ok"
    except httpx.HTTPError:
        return False


def established(client: httpx.Client) -> bool:
    found = client.get(CRDS).raise_for_status().json()["items"]
    told = [crd["status"]["conditions"] or [] for crd in found]  # null until the server has looked at it
    conditions = [{one["type"]: one["status"] for one in each} for each in told]
    return len(found) == len(PLURALS) and all(one.get("Established") == "True" for one in conditions)


def custom(case: str, **changes: Any) -> list[Object]:
    """The release's objects of other operators."""
    objects = template({**values_of(case), **changes})
    return [one for one in objects if (one["apiVersion"], one["kind"]) in validators()]


def url(one: Object) -> str:
    return f"/apis/{one['apiVersion']}/namespaces/{one['metadata']['namespace']}/{PLURALS[one['kind']]}"


def post(server: httpx.Client, one: Object) -> httpx.Response:
    """Judge it as if it were created."""
    return server.post(url(one), params={**STRICT, "dryRun": "All"}, json=one)


@pytest.mark.parametrize("case", [case for case in CASES if custom(case)])
def test_custom_resources_are_accepted_strictly(case: str, server: httpx.Client) -> None:
    for one in custom(case):
        answer = post(server, one)
        assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("case", ["rayservice", "rayservice-incremental"])
def test_an_upgrade_of_a_rayservice_is_accepted(case: str, server: httpx.Client) -> None:
    (old,) = [one for one in custom(case) if one["kind"] == "RayService"]
    (new,) = [one for one in custom(case, drainSeconds=90, podLabels={"a": "b"}) if one["kind"] == "RayService"]
    old["metadata"]["name"] = new["metadata"]["name"] = case
    made = server.post(url(old), params=STRICT, json=old)
    assert made.status_code == 201, made.text
    new["metadata"]["resourceVersion"] = made.json()["metadata"]["resourceVersion"]
    put = server.put(f"{url(new)}/{case}", params=STRICT, json=new)
    assert put.status_code == 200, put.text
    assert put.json()["spec"]["rayClusterDeletionDelaySeconds"] > 90


def test_the_server_refuses(server: httpx.Client) -> None:
    """A typo, a wrong type and a rule in CEL: what was accepted above could have been refused."""
    (ray,) = [one for one in custom("rayservice") if one["kind"] == "RayService"]
    typo, wrong, managed = (copy.deepcopy(ray) for _ in range(3))
    typo["spec"]["serveconfigV2"] = ""
    wrong["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] = "many"
    managed["spec"]["managedBy"] = "somebody"
    said = [post(server, one) for one in (typo, wrong, managed)]
    assert [one.status_code for one in said] == [400, 422, 422]
    assert 'unknown field "spec.serveconfigV2"' in said[0].json()["message"]
    assert "maxReplicas" in said[1].text
    assert "managedBy" in said[2].text
    (route,) = [one for one in custom("standalone-production") if one["kind"] == "HTTPRoute"]
    route["spec"]["rules"][0]["timeouts"] = {"request": "1s", "backendRequest": "2s"}
    refused = post(server, route)
    assert refused.status_code == 422
    assert "backendRequest timeout cannot be longer than request timeout" in refused.text
