"""What is written out: the bundle, SARIF, and the documents of the service."""

from __future__ import annotations

import json
from dataclasses import replace

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft7Validator

from hybridserve.compliance import compliance_document, licenses_document, service_lines
from hybridserve.compliance.attribution import attribution_bundle, missing_copies
from hybridserve.compliance.documents import attribution_header
from hybridserve.compliance.sarif import sarif
from support.compliance_cases import TODAY, Case

# The parts of SARIF 2.1.0 that we use, from the OASIS standard, sections 3.13 to 3.27.
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool"],
                "properties": {
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message", "ruleId", "ruleIndex"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "message": {"type": "object", "required": ["text"]},
                                "kind": {"enum": ["pass", "open", "fail"]},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "locations": {"type": "array"},
                                "suppressions": {
                                    "type": "array",
                                    "items": {
                                        "required": ["kind"],
                                        "properties": {"kind": {"enum": ["inSource", "external"]}},
                                    },
                                },
                            },
                        },
                    }
                },
            },
        },
    },
}


def test_the_bundle_is_the_same_bytes_each_time_and_satisfies_the_check(baked: Case, llama_guard: Case) -> None:
    files = attribution_bundle(baked.view())
    assert files == attribution_bundle(baked.view())
    assert set(files) == {"NOTICE", "LICENSES.md", "MODELS.md", "models.cdx.json", "licenses.json"}
    assert not any("/tmp" in text for text in files.values())
    own = replace(baked, bundle={**(baked.bundle or {}), "NOTICE": files["NOTICE"]})
    assert own.status("license.notice") == {"PASS"}
    assert any("nvidia-open-model-2025-10-24.txt" in sentence for sentence in missing_copies(baked.view()))
    assert missing_copies(baked.set("license.weights", "pulled").view()) == []
    with_guard = attribution_bundle(llama_guard.view())["NOTICE"].splitlines()
    assert "Built with Llama" in with_guard
    assert any(line.startswith("Llama 3.1 is licensed under") for line in with_guard)


def test_models_sbom_is_valid_cyclonedx(case: Case, llama_guard: Case) -> None:
    text = attribution_bundle(case.view())["models.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    model, guard = sorted(bom["components"], key=lambda component: component["bom-ref"], reverse=True)
    assert model["purl"] == (
        "pkg:huggingface/nvidia/NVIDIA-Nemotron-Nano-9B-v2@6533e8de2c68e4536bf7c411d7a3ce5734111476"
    )
    assert model["licenses"] == [{"expression": "LicenseRef-scancode-nvidia-open-model-2025"}]
    assert guard["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    guard, _ = json.loads(attribution_bundle(llama_guard.view())["models.cdx.json"])["components"]
    assert guard["licenses"] == [
        {"expression": "LicenseRef-scancode-nvidia-open-model-2025 AND LicenseRef-scancode-llama-3.1-license-2024"}
    ]
    assert [reference["type"] for reference in guard["externalReferences"]] == ["license", "license"]


def test_sarif(case: Case) -> None:
    waiver = {"rule": "guard.kind", "by": "Legal", "reason": "pilot with ten users", "until": "2026-12-31"}
    broken = (
        case.set("guard.kind", "rules").set("license.waivers", [waiver]).set("engine.dtype", "auto")
        .set("model.revision", "f" * 40).set("engine.chat_template", "own.jinja")
    )  # fmt: skip
    broken = replace(broken, facts=None)
    log = sarif(broken.findings(), "hybridserve.yaml")
    Draft7Validator(SARIF).validate(log)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    kinds = {}
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert (result["level"] == "none") == (result["kind"] != "fail")
        kinds.setdefault(result["ruleId"], set()).add((result["kind"], result["level"], "suppressions" in result))
    assert kinds["guard.kind"] == {("fail", "error", True)}
    assert kinds["engine.auto-dtype"] == {("fail", "warning", False)}
    assert kinds["engine.starts"] == {("open", "none", False)}
    assert kinds["exposure.keys"] == {("pass", "none", False)}
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "hybridserve.yaml"
    assert "locations" not in sarif(broken.findings(), None)["runs"][0]["results"][0]


def test_the_service_says_what_its_licenses_ask(case: Case, llama_guard: Case) -> None:
    assert service_lines(case.view()) == []
    assert attribution_header(case.view()) is None
    assert attribution_header(llama_guard.view()) == "Built with Llama"
    document = licenses_document(llama_guard.view())
    assert document["lines"] == ["Built with Llama"]
    assert "https://llama.meta.com/llama3_1/use-policy" in document["policies"]
    guard = document["models"][1]
    assert [one["id"] for one in guard["licenses"]] == ["nvidia-open-model-2025-10-24", "llama-3.1"]
    hosted = {duty["term"] for duty in document["models"][0]["licenses"][0]["duties"]}
    assert "guardrail" in hosted
    assert "license_copy" not in hosted
    json.dumps(document)


def test_the_compliance_document(case: Case) -> None:
    findings = case.findings()
    document = compliance_document(findings, "production", TODAY, "e" * 64)
    assert document["verdict"] == "ready"
    assert document["counts"] == {"PASS": len(findings)}
    assert document["evidence_sha256"] == "e" * 64
    again = compliance_document(case.findings(), "production", TODAY)
    assert again["findings_sha256"] == document["findings_sha256"]
    changed = compliance_document(case.set("engine.dtype", "auto").findings(), "production", TODAY)
    assert changed["findings_sha256"] != document["findings_sha256"]
    assert changed["verdict"] == "warn"
    json.dumps(document)
