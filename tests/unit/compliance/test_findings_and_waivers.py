"""The status that findings give a deployment, waivers, and the outcomes of single rules at their limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hybridserve.catalog.licenses import license
from hybridserve.catalog.models import load_card
from hybridserve.compliance import Finding, compliance_status, evaluate, evidence
from hybridserve.compliance.evidence import LIVE_RULES, VERIFY_SCHEMA, seal_record, subject
from hybridserve.compliance.placeholders import is_placeholder
from hybridserve.compliance.rules.engine_arguments import online_quantization
from hybridserve.errors import ConfigError
from hybridserve.settings import Settings
from support.compliance_cases import TODAY, Case

ROOT = Path(__file__).parents[3]
WAIVER = {"rule": "guard.kind", "by": "Head of Legal", "reason": "pilot with ten users", "until": "2026-12-31"}
PROFILES = ("production", "staging", "demo")


def finding(severity: str, status: str) -> Finding:
    return Finding("a.b", "guard", severity, status, "t", "", "e", "b", "r")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("severity", "status", "expected"),
    [
        ("error", "PASS", ["ready", "ready", "ready"]),
        ("error", "WAIVED", ["ready", "ready", "ready"]),
        ("error", "FAIL", ["refuse", "refuse", "warn"]),
        ("error", "UNKNOWN", ["refuse", "warn", "warn"]),
        ("warning", "FAIL", ["warn", "warn", "warn"]),
        ("warning", "UNKNOWN", ["warn", "warn", "warn"]),
        ("note", "FAIL", ["ready", "ready", "ready"]),
    ],
)
def test_status_by_profile(severity: str, status: str, expected: list[str]) -> None:
    findings = [finding("error", "PASS"), finding(severity, status)]
    assert [compliance_status(findings, profile) for profile in PROFILES] == expected


@given(st.lists(st.tuples(st.sampled_from(["error", "warning", "note"]),
                          st.sampled_from(["PASS", "FAIL", "WAIVED", "UNKNOWN"]))))  # fmt: skip
def test_stricter_profile_is_never_more_lenient(kinds: list[tuple[str, str]]) -> None:
    findings = [finding(severity, status) for severity, status in kinds]
    strictness = [["ready", "warn", "refuse"].index(compliance_status(findings, profile)) for profile in PROFILES]
    assert strictness == sorted(strictness, reverse=True)


def test_waiver_is_valid_through_its_last_day(case: Case) -> None:
    patterns = case.set("guard.kind", "rules").set("license.waivers", [WAIVER])
    assert replace(patterns, today=date(2026, 12, 31)).status("guard.kind") == {"WAIVED"}
    expired = replace(patterns, today=date(2027, 1, 1))
    assert expired.status("guard.kind") == expired.status("license.waivers") == {"FAIL"}
    waived = next(found for found in patterns.findings() if found.rule == "guard.kind")
    assert waived.waiver == "by Head of Legal until 2026-12-31: pilot with ten users"
    assert compliance_status(patterns.findings(), "production") == "ready"


def test_waiver_that_ends_in_more_than_a_year_does_not_count(case: Case) -> None:
    patterns = case.set("guard.kind", "rules")
    for until, status in (("2027-11-24", "WAIVED"), ("2027-11-25", "FAIL")):
        assert patterns.set("license.waivers", [{**WAIVER, "until": until}]).status("guard.kind") == {status}


@pytest.mark.parametrize("reason", ["x" * 20, "pilot pilot pilot pilot", "1 2 3 4 5 6 7 8 9"])
def test_waiver_without_a_reason_is_an_error(case: Case, reason: str) -> None:
    with pytest.raises(ValidationError, match="three different words"):
        case.set("license.waivers", [{**WAIVER, "reason": reason}]).view()


def evidence_of(case: Case, **changes: Any) -> Mapping[str, Any]:
    """A record of all live rules about this deployment, with changes to its top level."""
    findings = [{"rule": rule.id, "status": "PASS"} for rule in LIVE_RULES]
    finished = datetime.combine(TODAY, time(), UTC).isoformat()
    about = subject(Settings.model_validate(case.tree))
    return seal_record({"about": about, "findings": findings, "finished": finished, **changes})


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, set()),
        ({"about": {"model": {"id": "qwen3-8b"}}}, {"model", "guard", "settings_sha256"}),
        ({"findings": [{"rule": "evidence.must-block", "status": "PASS"}]}, {"findings"}),
        ({"findings": [{"rule": rule.id, "status": "UNKNOWN"} for rule in LIVE_RULES]}, {"findings"}),
        ({"finished": "2026-08-25T00:00:00+00:00"}, set()),
        ({"finished": "2026-08-24T00:00:00+00:00"}, {"age"}),
        ({"finished": "2026-11-24T00:00:00+00:00"}, {"age"}),
        ({"finished": None}, {"age"}),
    ],
)
def test_evidence_is_bound_to_the_deployment_and_its_age(
    case: Case, tmp_path: Path, changes: dict[str, Any], broken: set[str]
) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(evidence_of(case, **changes)))
    with_record = case.set("guard.evidence_file", str(file))
    found = {row.subject for row in with_record.findings() if row.rule == "guard.evidence" and row.status != "PASS"}
    assert found == broken
    if not broken:
        for path, value in (
            ("guard.controversial", "allow"),
            ("engine.chat_template", "t"),
            ("model.revision", "f" * 40),
        ):
            assert "FAIL" in with_record.set(path, value).status("guard.evidence")
        assert with_record.set("license.image", None).status("guard.evidence") == {"PASS"}


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, set()),
        ({"verdict": "FAIL", "conditions": [{"condition": "warm", "verdict": "FAIL"}]}, {"result"}),
        ({"verdict": "SKIP", "conditions": []}, {"result"}),
        ({"reference_sha256": None}, {"reference"}),
        ({"finished": "2026-08-24T00:00:00+00:00"}, {"age"}),
        ({"about": {"model": {"id": "qwen3-8b"}}}, {"model", "guard", "settings_sha256"}),
    ],
)
def test_the_record_of_verify_is_bound_to_the_deployment(
    case: Case, tmp_path: Path, changes: dict[str, Any], broken: set[str]
) -> None:
    file = tmp_path / "verify.json"
    passed = {"schema": VERIFY_SCHEMA, "verdict": "PASS", "conditions": [], "reference_sha256": "0" * 64}
    file.write_text(json.dumps(evidence_of(case, **{**passed, **changes})))
    with_record = case.set("verify.evidence_file", str(file))
    found = {row.subject for row in with_record.findings() if row.rule == "engine.verified" and row.status != "PASS"}
    assert found == broken


@pytest.mark.parametrize(
    ("converts", "record", "status"),
    [
        (None, None, None),
        ("fp8", None, "FAIL"),
        ("fp8", {"reference_sha256": None}, "FAIL"),
        ("fp8", {"reference_sha256": "0" * 64}, "PASS"),
    ],
)
def test_weights_that_the_engine_converts_are_compared(
    case: Case, converts: str | None, record: dict[str, Any] | None, status: str | None
) -> None:
    view = case.view()
    converting = replace(view, engine=replace(view.engine, converts=converts), verification=record)
    outcome = online_quantization(converting)
    assert (outcome and outcome.status) == status


def test_a_guard_record_is_no_record_of_verify(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(evidence_of(case)))
    with pytest.raises(ConfigError, match="is not a record of hybridserve verify"):
        case.set("verify.evidence_file", str(file)).view()


def test_waiver_for_one_subject_waives_no_other(case: Case) -> None:
    routes = case.set("access.open_routes", ["POST /invocations", "POST /rerank"])
    waiver = {**WAIVER, "rule": "exposure.routes", "subject": "POST /rerank"}
    assert routes.set("license.waivers", [waiver]).status("exposure.routes") == {"WAIVED", "FAIL"}


def test_rule_on_waivers_cannot_be_waived(case: Case) -> None:
    waivers = [{**WAIVER, "until": "2026-01-01"}, {**WAIVER, "rule": "license.waivers"}]
    assert "FAIL" in case.set("license.waivers", waivers).status("license.waivers")


def test_waivers_are_read_from_a_file(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "waivers.yaml"
    file.write_text("- {rule: guard.kind, by: Legal, reason: pilot with ten users, until: 2026-12-31}\n")
    assert case.set("guard.kind", "rules").set("license.waivers_file", str(file)).status("guard.kind") == {"WAIVED"}


@pytest.mark.parametrize(
    "text",
    [None, "- {rule: guard.kind}", "a: [", "- 3", "- {rule: guard.knd, by: L, reason: long enough, until: 2026-12-31}"],
)
def test_broken_waivers_file_is_an_error(case: Case, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "waivers.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"license\.waivers"):
        case.set("license.waivers_file", str(file)).view()


def test_waiver_of_unknown_rule_is_an_error(case: Case) -> None:
    with pytest.raises(ConfigError, match="is not a rule"):
        case.set("license.waivers", [{**WAIVER, "rule": "guard.knd"}]).view()


def test_changed_guardrail_needs_a_guard_and_a_waiver(case: Case) -> None:
    changed = case.set("engine.chat_template", "other.jinja")
    assert changed.status("license.guardrail") == {"UNKNOWN"}
    assert changed.set("guard.output", False).status("license.guardrail") == {"FAIL"}
    waiver = {**WAIVER, "rule": "license.guardrail", "reason": "Qwen3Guard judged similar by Legal"}
    assert changed.set("license.waivers", [waiver]).status("license.guardrail") == {"WAIVED"}


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("nvidia-open-model-2025-04-28", "FAIL"),  # allows no substitute
        ("nvidia-nemotron-open-model-2025-12-15", "PASS"),  # has no guardrail clause
    ],
)
def test_changed_guardrail_depends_on_license_version(case: Case, version: str, status: str) -> None:
    view = case.set("engine.chat_template", "other.jinja").view()
    view = replace(view, model=replace(view.model, licenses=(license(version),)))
    assert {found.status for found in evaluate(view, TODAY) if found.rule == "license.guardrail"} == {status}


def test_version_accepted_for_an_unversioned_card_decides_on_the_guardrail(case: Case) -> None:
    changed = case.set("engine.chat_template", "other.jinja")

    def finding_with(**record: str) -> Finding:
        accepted = [{"license": "nvidia-open-model-2025-10-24", "by": "Legal", "accepted": "2026-11-20", **record}]
        accepted += case.tree["license"]["accepted"][1:]
        findings = changed.set("license.accepted", accepted).findings()
        assert not [found for found in findings if found.rule == "license.accepted" and found.status != "PASS"]
        return next(found for found in findings if found.rule == "license.guardrail")

    assert finding_with(license="nvidia-open-model-2025-04-28").status == "FAIL"
    for obtained, words in (("2025-09-22", "may not be"), ("2025-09-23", "is in the license")):
        found = finding_with(obtained=obtained)
        assert (found.status, words in found.evidence) == ("UNKNOWN", True)
    assert "when the weights were obtained" in finding_with().evidence


@pytest.mark.parametrize(
    "by",
    [
        "YOUR NAME",
        "your name",
        "TODO",
        "changeme",
        "<name>",
        "ops@example.com",
        "${LEGAL}",
        "Your name here",
        "Firstname Lastname",
        "N.N.",
        "TBC",
    ],
)
def test_an_acceptance_by_a_placeholder_names_the_field(case: Case, by: str) -> None:
    first, *rest = case.tree["license"]["accepted"]
    found = next(
        each
        for each in case.set("license.accepted", [{**first, "by": by}, *rest]).findings()
        if each.rule == "license.accepted" and each.status == "FAIL"
    )
    assert f"accepted by {by}" in found.evidence
    assert "placeholder" in found.evidence
    assert "`by` of license.accepted" in found.remedy


@pytest.mark.parametrize(
    "by", ["Ana Todo", "Head of Legal", "José Ñame", "legal@acme.com", "N. A. Meyer", "Ada L. <ada@acme.io>"]
)
def test_a_name_is_no_placeholder(by: str) -> None:
    assert not is_placeholder(by)


@pytest.mark.parametrize(
    "reason",
    [
        "p95 TTFT must stay <2 s at >5 requests per second",
        "TODO-312 tracks it",
        "the template has a placeholder for the tenant",
        "tenant example.com is ours",
    ],
)
def test_a_reason_is_no_placeholder(reason: str) -> None:
    assert not is_placeholder(reason)


def test_what_to_do_names_the_address_of_the_text(case: Case) -> None:
    def remedies(changed: Case, rule: str) -> list[str]:
        return [found.remedy for found in changed.findings() if found.rule == rule and found.status == "FAIL"]

    url = license("nvidia-open-model-2025-10-24").url
    (nobody,) = remedies(case.set("license.accepted", case.tree["license"]["accepted"][1:]), "license.accepted")
    assert f"read {url} and add license.accepted: [{{license: nvidia-open-model-2025-10-24, by: NAME" in nobody
    later = replace(case, today=date(2027, 11, 23))
    for rule in ("license.accepted", "license.review-age"):
        assert any(f"read {url} again" in remedy for remedy in remedies(later, rule))


def test_review_age_tells_the_registrys_day_from_the_acceptance(case: Case) -> None:
    def evidence(changed: Case) -> str:
        return next(f.evidence for f in changed.findings() if f.rule == "license.review-age" and "nvidia" in f.subject)

    read = license("nvidia-open-model-2025-10-24").read
    late = replace(case, today=date(2027, 11, 23))
    assert evidence(late).startswith(f"reviewed {read} in the registry, read and accepted 2026-11-20 by you: ")
    first, *rest = case.tree["license"]["accepted"]
    nobody = late.set("license.accepted", [{**first, "by": "YOUR NAME"}, *rest])
    assert evidence(nobody).startswith(f"reviewed {read} in the registry: ")


def test_an_acceptance_in_the_future_says_which_day_to_write(case: Case) -> None:
    first, *rest = case.tree["license"]["accepted"]
    late = case.set("license.accepted", [{**first, "accepted": str(case.today + timedelta(days=1))}, *rest])
    [found] = [each for each in late.findings() if each.rule == "license.accepted" and each.status == "FAIL"]
    assert found.evidence.endswith(f", which is after {case.today}")
    assert found.remedy.endswith(f"the day on which it was read, not after {case.today}")


@pytest.mark.parametrize("wrong", ["apache-2", "Apache-2.0", "the license of the guard"])
def test_an_accepted_id_that_no_license_has_is_named(case: Case, wrong: str) -> None:
    """A person sees an acceptance in the file, and the check says that nobody accepted it."""
    first, second, *rest = case.tree["license"]["accepted"]
    assert second["license"] == "apache-2.0"
    changed = case.set("license.accepted", [first, {**second, "license": wrong}, *rest])
    [found] = [each for each in changed.findings() if each.rule == "license.accepted" and each.status == "FAIL"]
    assert f"; license.accepted has {wrong!r}, which the registry does not have" in found.evidence
    assert found.remedy.startswith("write apache-2.0 there if that is the text that was read; else read https://")


def test_a_wrong_id_is_named_for_the_license_that_it_means(case: Case) -> None:
    wrong = [{"license": "apache-2", "by": "Ada Lovelace", "accepted": "2026-11-20"}]
    said = {each.subject: each.evidence for each in case.set("license.accepted", wrong).findings()
            if each.rule == "license.accepted"}  # fmt: skip
    assert {subject for subject, evidence in said.items() if "'apache-2'" in evidence} == {"apache-2.0"}
    assert len(said) > 1


def test_acceptance_expires(case: Case) -> None:
    later = replace(case, today=date(2026, 11, 20) + timedelta(days=181))
    assert later.status("license.accepted") == {"FAIL"}
    assert later.set("license.max_review_age_days", 365).status("license.accepted") == {"PASS"}


@pytest.mark.parametrize(
    ("setting", "value", "status"),
    [
        ("annual_revenue_usd", None, "UNKNOWN"),
        ("annual_revenue_usd", 9_999_999, "PASS"),
        ("annual_revenue_usd", 10_000_000, "FAIL"),
        ("commercial", ["lfm-1.0"], "PASS"),
        ("non_profit", True, "PASS"),
    ],
)
def test_revenue_limit(case: Case, setting: str, value: Any, status: str) -> None:
    accepted = [{"license": name, "by": "L", "accepted": "2026-11-20"} for name in ("lfm-1.0", "apache-2.0")]
    lfm = replace(case.set("model.id", "lfm2-1.2b").set("license.accepted", accepted), card=None)
    assert lfm.set(f"license.{setting}", value).status("license.limits") == {status}


def test_float16_state_needs_stochastic_rounding_on_a_platform_that_supports_it(case: Case) -> None:
    half = case.set("engine.mamba_ssm_cache_dtype", "float16").set(
        "engine.enable_mamba_cache_stochastic_rounding", True
    )
    assert half.status("engine.ssm-dtype") == {"PASS"}
    assert half.status("engine.stochastic-rounding") == {"FAIL"}
    assert replace(half, rounds_stochastically=True).status("engine.stochastic-rounding") == {"PASS"}
    assert half.set("engine.extra_args.mamba_backend", "flashinfer").status("engine.stochastic-rounding") == {"PASS"}
    assert replace(half, platform="cpu").status("engine.stochastic-rounding") == {"FAIL"}


def test_hybrid_rules_do_not_apply_to_a_transformer(case: Case) -> None:
    dense = replace(case.set("engine.mamba_ssm_cache_dtype", "auto").set("engine.block_size", 64), hybrid=False)
    rules = {found.rule: found for found in dense.findings()}
    for rule in ("engine.ssm-dtype", "engine.block-size"):
        assert (rules[rule].status, rules[rule].applies) == ("PASS", False)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://guard:8000/v1", "PASS"),
        ("http://guard.safety.svc:8000/v1", "PASS"),
        ("http://127.0.0.1:9/v1", "PASS"),
        ("https://a.example", "PASS"),
        ("http://10.0.0.7/v1", "FAIL"),
        ("http://134744072/v1", "FAIL"),
        ("http://0x08080808/v1", "FAIL"),
        ("http://[fd00::7]/v1", "FAIL"),
        ("http://guard.example.com/v1", "FAIL"),
        ("ftp://guard/v1", "FAIL"),
        (None, "PASS"),  # the chart's own Service, or nothing starts
    ],
)
def test_guard_needs_tls_outside_the_cluster(case: Case, url: str | None, status: str) -> None:
    assert case.set("guard.url", url).status("guard.transport") == {status}


@pytest.mark.parametrize("rule", ["guard.chat-template", "guard.tokenizer", "guard.generation-config"])
def test_files_of_mounted_weights_are_unknown(case: Case, rule: str) -> None:
    assert case.set("license.weights", "mounted").status(rule) == {"UNKNOWN"}


def test_files_without_recorded_hash_are_unknown(baked: Case) -> None:
    assert baked.set("license.pinned_files", {}).status("guard.chat-template") == {"UNKNOWN"}


def test_local_folder_with_the_name_of_a_model_has_no_known_license(baked: Case) -> None:
    findings = replace(baked, card=None).findings()
    open_findings = [found for found in findings if found.rule == "license.known" and found.status != "PASS"]
    assert [(found.subject, found.status) for found in open_findings] == [("nemotron-nano-9b-v2", "UNKNOWN")]
    assert compliance_status(findings, "production") == "refuse"


def test_a_model_whose_license_was_not_read_says_so(case: Case) -> None:
    findings = replace(case.set("model.id", "qwen3.6-35b-a3b"), card=None).findings()
    (found,) = (found for found in findings if found.rule == "license.known" and found.status != "PASS")
    assert found.evidence == "the registry names no license: the license of Qwen3.6 was not read"
    named = [word for word in found.remedy.split() if word.startswith("src/")]
    assert len(named) == 2
    assert all((ROOT / path).exists() for path in named)


def test_a_chat_model_without_a_parser_says_that_tool_calls_are_off(case: Case) -> None:
    serving = load_card("falcon-h1-0.5b-instruct").serving
    card = load_card("nemotron-nano-9b-v2").model_copy(update={"serving": serving})
    findings = replace(case, card=card).findings()
    (found,) = (found for found in findings if found.rule == "engine.tool-parser")
    assert (found.status, found.applies) == ("PASS", True)
    assert found.evidence == "tool calls are off: no parser of vLLM is known for this model"


def test_harmless_route_and_loopback_port_pass(case: Case) -> None:
    assert case.set("access.open_routes", ["POST /tokenize"]).status("exposure.routes") == {"PASS"}
    assert case.set("telemetry.metrics_host", "::1").status("exposure.ports") == {"PASS"}
    no_port = case.set("telemetry.metrics_host", "0.0.0.0").set("telemetry.metrics_port", 0)
    (found,) = [found for found in no_port.findings() if found.rule == "exposure.ports"]
    assert (found.status, found.applies) == ("PASS", False)


def test_records_outlive_new_settings() -> None:
    """The digest that 0.2 began with: a setting that is added must not change it where it has its default."""
    settings = Settings.model_validate({"model": {"id": "nemotron-nano-9b-v2"}})
    assert evidence.tested_settings(settings) == "87cb553ca9607cf37813a3ae260760375e583622d0a5171e95311f7e2bc03ae2"
    described = Settings.model_validate({"model": {"id": "nemotron-nano-9b-v2", "config": {"n": 1}}})
    assert evidence.tested_settings(described) != evidence.tested_settings(settings)
