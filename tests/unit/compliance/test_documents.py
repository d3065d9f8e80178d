"""Documents: the attribution bundle, SARIF, and what the running service publishes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from hybridserve.compliance import compliance_document, licenses_document, service_lines
from hybridserve.compliance.attribution import attribution_bundle, missing_copies
from hybridserve.compliance.documents import attribution_header, served_licenses
from hybridserve.compliance.sarif import sarif
from support.compliance_cases import TODAY, Case

# Of SARIF 2.1.0, section 3.27: the properties of a result that we use.
SARIF_RESULT = {"ruleId", "ruleIndex", "message", "kind", "level", "locations", "suppressions"}


def test_bundle_is_reproducible_and_satisfies_the_notice_rule(baked: Case) -> None:
    files = attribution_bundle(baked.view())
    assert files == attribution_bundle(baked.view())
    assert set(files) == {"NOTICE", "LICENSES.md", "MODELS.md", "models.cdx.json", "licenses.json"}
    assert not any("/tmp" in text for text in files.values())
    shipped = replace(baked, bundle={**(baked.bundle or {}), "NOTICE": files["NOTICE"]})
    assert shipped.status("license.notice") == {"PASS"}


def test_license_texts_must_be_added_where_weights_are_distributed(baked: Case) -> None:
    assert any("nvidia-open-model-2025-10-24.txt" in sentence for sentence in missing_copies(baked.view()))
    assert missing_copies(baked.set("license.weights", "pulled").view()) == []


def test_notice_has_the_lines_of_the_guard_model(llama_guard: Case) -> None:
    lines = attribution_bundle(llama_guard.view())["NOTICE"].splitlines()
    assert "Built with Llama" in lines
    assert any(line.startswith("Llama 3.1 is licensed under") for line in lines)


@pytest.mark.parametrize("base", ["case", "llama_guard"])
def test_models_sbom_is_valid_cyclonedx(base: str, request: pytest.FixtureRequest) -> None:
    text = attribution_bundle(request.getfixturevalue(base).view())["models.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_models_sbom_has_package_urls_and_license_expressions(case: Case, llama_guard: Case) -> None:
    def components(case: Case) -> dict[str, dict[str, object]]:
        document = json.loads(attribution_bundle(case.view())["models.cdx.json"])
        return {component["bom-ref"].partition(":")[0]: component for component in document["components"]}

    plain, combined = components(case), components(llama_guard)
    assert plain["model"]["purl"] == (
        "pkg:huggingface/nvidia/NVIDIA-Nemotron-Nano-9B-v2@6533e8de2c68e4536bf7c411d7a3ce5734111476"
    )
    nvidia = "LicenseRef-scancode-nvidia-open-model-2025"
    assert plain["model"]["licenses"] == [{"expression": nvidia}]
    assert plain["guard"]["licenses"] == [{"expression": "Apache-2.0"}]
    expression = f"{nvidia} AND LicenseRef-scancode-llama-3.1-license-2024"
    assert combined["guard"]["licenses"] == [{"expression": expression}]


def test_sarif_has_kind_level_and_suppression_of_each_finding(case: Case) -> None:
    waiver = {"rule": "guard.kind", "by": "Legal", "reason": "pilot with ten users", "until": "2026-12-31"}
    broken = case.set("guard.kind", "rules").set("license.waivers", [waiver]).set("engine.dtype", "auto")
    findings = replace(broken, facts=None).findings()
    log = sarif(findings, "hybridserve.yaml")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    kinds: dict[str, set[tuple[str, str, bool]]] = {}
    for result in run["results"]:
        assert set(result) <= SARIF_RESULT
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert isinstance(result["message"]["text"], str)
        assert result["kind"] in ("pass", "open", "fail")
        assert result["level"] in ("none", "note", "warning", "error")
        assert [suppression["kind"] for suppression in result.get("suppressions", ())] in ([], ["external"])
        assert (result["level"] == "none") == (result["kind"] != "fail")
        kinds.setdefault(result["ruleId"], set()).add((result["kind"], result["level"], "suppressions" in result))
    assert kinds["guard.kind"] == {("fail", "error", True)}
    assert kinds["engine.auto-dtype"] == {("fail", "warning", False)}
    assert kinds["engine.starts"] == {("open", "none", False)}
    assert kinds["exposure.keys"] == {("pass", "none", False)}
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "hybridserve.yaml"
    assert "locations" not in sarif(findings, None)["runs"][0]["results"][0]


def test_lines_that_users_must_see(case: Case, llama_guard: Case) -> None:
    assert (service_lines(case.view()), attribution_header(case.view())) == ([], None)
    assert attribution_header(llama_guard.view()) == "Built with Llama"


def test_licenses_document(llama_guard: Case) -> None:
    document = licenses_document(llama_guard.view())
    assert document["lines"] == ["Built with Llama"]
    assert "https://llama.meta.com/llama3_1/use-policy" in document["policies"]
    model, guard = document["models"]
    assert [entry["id"] for entry in guard["licenses"]] == ["nvidia-open-model-2025-10-24", "llama-3.1"]
    terms = {duty["term"] for duty in model["licenses"][0]["duties"]}
    assert "guardrail" in terms
    assert "license_copy" not in terms, "it applies only where the weights are distributed"
    json.dumps(document)


def test_served_licenses_have_notice_and_texts_of_the_bundle(baked: Case, case: Case) -> None:
    document = served_licenses(baked.view())
    line = "Licensed by NVIDIA Corporation under the NVIDIA Open Model License"
    assert line in document["notice"]
    assert set(document["texts"]) == {"NOTICE", "licenses/nvidia-open-model-2025-10-24.txt"}
    assert document["models"] == licenses_document(baked.view())["models"]
    assert (served_licenses(case.view())["notice"], served_licenses(case.view())["texts"]) == ([line], {})


def test_compliance_document_has_a_digest_of_its_findings(case: Case) -> None:
    findings = case.findings()
    document = compliance_document(findings, "production", TODAY, {"sha256": "e" * 64})
    others = sum(not found.applies for found in findings)
    assert others > 0
    assert document["verdict"] == "ready"
    assert document["counts"] == {"PASS": len(findings) - others, "NOT_APPLICABLE": others}
    assert document["evidence_sha256"] == "e" * 64
    again = compliance_document(case.findings(), "production", TODAY)
    changed = compliance_document(case.set("engine.dtype", "auto").findings(), "production", TODAY)
    assert again["findings_sha256"] == document["findings_sha256"] != changed["findings_sha256"]
    assert changed["verdict"] == "warn"
    json.dumps(document)
