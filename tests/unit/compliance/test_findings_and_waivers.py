"""What follows from findings, and how long a waiver holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.catalog.licenses import license
from hybridserve.compliance import Finding, compliance_status
from hybridserve.errors import ConfigError
from support.compliance_cases import TODAY, Case, license_text

WAIVER = {"rule": "guard.kind", "by": "Head of Legal", "reason": "pilot with ten users", "until": "2026-12-31"}


def finding(severity: str, status: str) -> Finding:
    return Finding("a.b", "guard", severity, status, "t", "", "e", "b", "r")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("severity", "status", "production", "staging", "demo"),
    [
        ("error", "PASS", "ready", "ready", "ready"),
        ("error", "WAIVED", "ready", "ready", "ready"),
        ("error", "FAIL", "refuse", "refuse", "warn"),
        ("error", "UNKNOWN", "refuse", "warn", "warn"),
        ("warning", "FAIL", "warn", "warn", "warn"),
        ("warning", "UNKNOWN", "warn", "warn", "warn"),
        ("note", "FAIL", "ready", "ready", "ready"),
    ],
)
def test_verdict(severity: str, status: str, production: str, staging: str, demo: str) -> None:
    found = [finding("error", "PASS"), finding(severity, status)]
    assert [compliance_status(found, profile) for profile in ("production", "staging", "demo")] == [
        production,
        staging,
        demo,
    ]


@given(st.lists(st.tuples(st.sampled_from(["error", "warning", "note"]),
                          st.sampled_from(["PASS", "FAIL", "WAIVED", "UNKNOWN"]))))  # fmt: skip
def test_a_stricter_profile_never_says_less(kinds: list[tuple[str, str]]) -> None:
    order = {"ready": 0, "warn": 1, "refuse": 2}
    found = [finding(severity, status) for severity, status in kinds]
    strictness = [order[compliance_status(found, profile)] for profile in ("demo", "staging", "production")]
    assert strictness == sorted(strictness)


def test_a_waiver_holds_until_its_last_day(case: Case) -> None:
    patterns = case.set("guard.kind", "rules").set("license.waivers", [WAIVER])
    assert patterns.status("guard.kind") == {"WAIVED"}
    assert replace(patterns, today=date(2026, 12, 31)).status("guard.kind") == {"WAIVED"}
    late = replace(patterns, today=date(2027, 1, 1))
    assert late.status("guard.kind") == {"FAIL"}
    assert late.status("license.waivers") == {"FAIL"}
    waived = next(one for one in patterns.findings() if one.rule == "guard.kind")
    assert waived.waiver == "by Head of Legal until 2026-12-31: pilot with ten users"
    assert compliance_status(patterns.findings(), "production") == "ready"


def test_a_waiver_for_one_subject_waives_no_other(case: Case) -> None:
    routes = case.set("access.open_routes", ["POST /invocations", "POST /rerank"])
    one = {**WAIVER, "rule": "exposure.routes", "subject": "POST /rerank"}
    assert routes.set("license.waivers", [one]).status("exposure.routes") == {"WAIVED", "FAIL"}


def test_the_rule_on_waivers_cannot_be_waived(case: Case) -> None:
    expired = {**WAIVER, "until": "2026-01-01"}
    shield = {**WAIVER, "rule": "license.waivers"}
    assert "FAIL" in case.set("license.waivers", [expired, shield]).status("license.waivers")


def test_waivers_from_a_file(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "waivers.yaml"
    file.write_text("- {rule: guard.kind, by: Legal, reason: pilot with ten users, until: 2026-12-31}\n")
    patterns = case.set("guard.kind", "rules").set("license.waivers_file", str(file))
    assert patterns.status("guard.kind") == {"WAIVED"}
    for broken in (
        "- {rule: guard.kind}",
        "a: [",
        "- 3",
        "- {rule: guard.knd, by: L, reason: long enough, until: 2026-12-31}",
    ):
        file.write_text(broken)
        with pytest.raises(ConfigError):
            patterns.view()
    with pytest.raises(ConfigError, match="cannot be read"):
        case.set("license.waivers_file", str(tmp_path / "none.yaml")).view()


def test_a_waiver_of_an_unknown_rule_is_a_mistake(case: Case) -> None:
    with pytest.raises(ConfigError, match="is not a rule"):
        case.set("license.waivers", [{**WAIVER, "rule": "guard.knd"}]).view()


def test_the_guardrail_is_judged_by_version(case: Case) -> None:
    changed = case.set("engine.chat_template", "own.jinja")
    # With a guard on both sides the current text leaves it to a person.
    assert changed.status("license.guardrail") == {"UNKNOWN"}
    assert changed.set("guard.output", False).status("license.guardrail") == {"FAIL"}
    waiver = {**WAIVER, "rule": "license.guardrail", "reason": "Qwen3Guard judged similar by Legal"}
    assert changed.set("license.waivers", [waiver]).status("license.guardrail") == {"WAIVED"}
    view = changed.view()
    strict = replace(view, model=replace(view.model, licenses=(license("nvidia-open-model-2025-04-28"),)))
    free = replace(view, model=replace(view.model, licenses=(license("nvidia-nemotron-open-model-2025-12-15"),)))
    from hybridserve.compliance import evaluate

    def status(deployment: object) -> set[str]:
        return {one.status for one in evaluate(deployment, TODAY) if one.rule == "license.guardrail"}  # type: ignore[arg-type]

    assert status(strict) == {"FAIL"}
    assert status(free) == {"PASS"}


def test_a_copy_that_is_the_text_itself_is_called_identical(baked: Case) -> None:
    one = license("nvidia-open-model-2025-10-24")
    assert baked.bundle is not None
    found = next(each for each in baked.findings() if each.rule == "license.copy")
    assert "identical" not in found.evidence
    assert license_text(one) in baked.bundle.values()


def test_acceptance_ages(case: Case) -> None:
    later = replace(case, today=date(2026, 11, 20) + timedelta(days=181))
    assert later.status("license.accepted") == {"FAIL"}
    assert later.set("license.max_review_age_days", 365).status("license.accepted") == {"PASS"}


def test_revenue_limit(case: Case) -> None:
    lfm = replace(case.set("model.id", "lfm2-1.2b").set("license.accepted", [
        {"license": "lfm-1.0", "by": "L", "accepted": "2026-11-20"},
        {"license": "apache-2.0", "by": "L", "accepted": "2026-11-20"}]), card=None)  # fmt: skip
    assert lfm.status("license.limits") == {"UNKNOWN"}
    assert lfm.set("license.annual_revenue_usd", 9_999_999).status("license.limits") == {"PASS"}
    assert lfm.set("license.annual_revenue_usd", 10_000_000).status("license.limits") == {"FAIL"}
    assert lfm.set("license.commercial", ["lfm-1.0"]).status("license.limits") == {"PASS"}


def test_float16_state_needs_rounding_where_it_is_built(case: Case) -> None:
    half = case.set("engine.mamba_ssm_cache_dtype", "float16").set(
        "engine.enable_mamba_cache_stochastic_rounding", True
    )
    assert half.status("engine.ssm-dtype") == {"PASS"}
    assert half.status("engine.stochastic-rounding") == {"FAIL"}
    assert replace(half, blackwell=True).status("engine.stochastic-rounding") == {"PASS"}
    assert half.set("engine.extra_args.mamba_backend", "flashinfer").status("engine.stochastic-rounding") == {"PASS"}
    assert replace(half, platform="cpu").status("engine.stochastic-rounding") == {"FAIL"}


def test_a_transformer_is_not_judged_as_a_hybrid(case: Case) -> None:
    dense = replace(case.set("engine.mamba_ssm_cache_dtype", "auto").set("engine.block_size", 64), hybrid=False)
    assert dense.status("engine.ssm-dtype") == {"PASS"}
    assert dense.status("engine.block-size") == {"PASS"}
    assert not any(one.applies for one in dense.findings() if one.rule == "engine.ssm-dtype")


def test_a_guard_inside_the_cluster_may_be_reached_in_clear(case: Case) -> None:
    for url in (
        "http://guard:8000/v1",
        "http://guard.safety.svc:8000/v1",
        "http://127.0.0.1:9/v1",
        "https://a.example",
    ):
        assert case.set("guard.url", url).status("guard.transport") == {"PASS"}
    for url in ("http://10.0.0.7/v1", "http://guard.example.com/v1", "ftp://guard/v1"):
        assert case.set("guard.url", url).status("guard.transport") == {"FAIL"}


def test_mounted_weights_that_nobody_can_see_are_unknown(case: Case) -> None:
    hidden = case.set("license.weights", "mounted")
    for rule in ("guard.chat-template", "guard.tokenizer", "guard.generation-config"):
        assert hidden.status(rule) == {"UNKNOWN"}


def test_files_without_a_recorded_hash_are_unknown(baked: Case) -> None:
    assert baked.set("license.pinned_files", {}).status("guard.chat-template") == {"UNKNOWN"}


def test_a_folder_of_a_known_models_name_has_no_license(baked: Case) -> None:
    folder = replace(baked, card=None)
    assert folder.status("license.known") == {"UNKNOWN", "PASS"}
    (found,) = [one for one in folder.findings() if one.rule == "license.known" and one.status == "UNKNOWN"]
    assert found.subject == "nemotron-nano-9b-v2"
    assert compliance_status(folder.findings(), "production") == "refuse"


def test_ports_and_routes_that_give_nothing_away(case: Case) -> None:
    assert case.set("access.open_routes", ["POST /tokenize"]).status("exposure.routes") == {"PASS"}
    assert case.set("telemetry.metrics_host", "::1").status("exposure.ports") == {"PASS"}
    closed = case.set("telemetry.metrics_host", "0.0.0.0").set("telemetry.metrics_port", 0)
    (finding,) = [one for one in closed.findings() if one.rule == "exposure.ports"]
    assert (finding.status, finding.applies) == ("PASS", False)
