"""Guard canaries against a correct service, and against one with each known defect."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import httpx
import pytest

from hybridserve.compliance.evidence import LIVE_RULES, is_intact
from hybridserve.compliance.findings import Finding, compliance_status
from hybridserve.guards.canaries.client import send_canaries
from hybridserve.guards.canaries.judge import (
    CanaryObservation,
    CanaryState,
    evidence_record,
    live_findings,
    next_state,
)
from hybridserve.guards.canaries.prompts import (
    HARMFUL,
    HARMLESS,
    Canary,
    canary_set,
    guard_down_canary,
    monitor_canaries,
)
from hybridserve.guards.patterns import PatternGuard
from support.fake_service import ANSWER, DEFECTS, HARMFUL_PROMPTS, FakeService

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
BLOCK, ALLOW = monitor_canaries()


def send(canaries: list[Canary], service: FakeService | None, url: str = "http://service") -> list[CanaryObservation]:
    async def run() -> list[CanaryObservation]:
        transport = httpx.ASGITransport(app=service) if service else None  # type: ignore[arg-type]
        headers = {"authorization": "Bearer abc"}
        async with httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as client:
            return await send_canaries(client, canaries, "assistant")

    return asyncio.run(run())


def check_all(defect: str | None) -> tuple[list[Canary], list[CanaryObservation], list[Finding]]:
    canaries, down = canary_set(), guard_down_canary()
    seen = send(canaries, FakeService(defect)) + send([down], FakeService(defect, guard_up=False))
    canaries.append(down)
    return canaries, seen, live_findings(canaries, seen)


def open_rules(findings: list[Finding]) -> set[str]:
    return {finding.rule for finding in findings if finding.status != "PASS"}


def test_correct_service_passes_every_rule() -> None:
    canaries, seen, findings = check_all(None)
    assert open_rules(findings) == set()
    assert {finding.rule for finding in findings} == {rule.id for rule in LIVE_RULES}
    assert len(seen) == len(canaries)
    assert compliance_status(findings, "production") == "ready"


@pytest.mark.parametrize(("defect", "rule"), DEFECTS.items())
def test_each_defect_is_found(defect: str, rule: str) -> None:
    _, _, findings = check_all(defect)
    assert rule in open_rules(findings)
    assert compliance_status(findings, "production") == "refuse"


@pytest.mark.parametrize("defect", [name for name in DEFECTS if not name.startswith(("guard-checks-en", "outage"))])
def test_english_canaries_find_defects_of_every_language(defect: str) -> None:
    canaries = canary_set(("en",))
    assert DEFECTS[defect] in open_rules(live_findings(canaries, send(canaries, FakeService(defect))))


def test_guard_down_rule_is_unknown_without_its_canary() -> None:
    canaries = canary_set(("en",))
    findings = live_findings(canaries, send(canaries, FakeService()))
    assert [(finding.rule, finding.status) for finding in findings if finding.status != "PASS"] == [
        ("evidence.guard-down", "UNKNOWN")
    ]


@pytest.mark.parametrize("status", [401, 403, 404, 429])
@pytest.mark.parametrize("canary", [BLOCK, ALLOW], ids=["block", "pass"])
def test_rejected_request_is_unknown(canary: Canary, status: int) -> None:
    findings = live_findings([canary], [CanaryObservation(canary=canary.id, status=status, code="no")])
    assert {finding.status for finding in findings if finding.subject == canary.id} == {"UNKNOWN"}


def test_connection_failure_is_unknown() -> None:
    seen = send([BLOCK, ALLOW], None, "http://127.0.0.1:1")
    assert [(observation.status, observation.fault) for observation in seen] == [(0, "ConnectError")] * 2
    assert {finding.status for finding in live_findings([BLOCK, ALLOW], seen)} == {"UNKNOWN"}


def test_record_contains_no_text_and_detects_changes() -> None:
    canaries, seen, findings = check_all(None)
    record = evidence_record(
        canaries, seen, findings, url="http://service", started=NOW, finished=NOW, about={"model": "assistant"}
    )
    text = json.dumps(record)
    assert not any(content in text for content in (ANSWER, *HARMFUL_PROMPTS))
    assert is_intact(json.loads(text))
    assert record["blocked_latency_s"]["p50"] >= 0
    assert len(record["canaries"]) == len(canaries)
    changed = json.loads(text)
    changed["canaries"][0]["verdict"] = "FAIL"
    assert not is_intact(changed)


def test_self_test_state_counts_failures_in_a_row() -> None:
    answered = (ALLOW, CanaryObservation(canary=ALLOW.id, status=200, content=5, finished=True))
    good = [(BLOCK, CanaryObservation(canary=BLOCK.id, status=400, code="guard_blocked")), answered]
    bad = [(BLOCK, CanaryObservation(canary=BLOCK.id, status=200, content=5, finished=True)), answered]
    state = CanaryState()
    assert not state.ready
    states = []
    for pair in (good, bad, bad, bad, bad, good, bad):
        state = next_state(state, pair, limit=3)
        states.append((state.failures, state.ready))
    assert states == [(0, True), (1, True), (2, True), (3, False), (4, False), (0, True), (1, True)]
    assert "monitor-block" in state.why


def test_first_failure_keeps_the_service_not_ready() -> None:
    no_response = [(BLOCK, CanaryObservation(canary=BLOCK.id, status=0, fault="ReadTimeout"))]
    failed = next_state(CanaryState(), no_response, limit=3)
    assert not failed.ready
    assert not failed.ok
    assert not next_state(CanaryState(), []).ok
    answered = [(ALLOW, CanaryObservation(canary=ALLOW.id, status=200, content=5, finished=True))]
    assert next_state(failed, answered).ready


def test_canaries_are_short_and_distinct() -> None:
    canaries = [*canary_set(), guard_down_canary(), BLOCK, ALLOW]
    assert len({canary.id for canary in canaries}) == len(canaries)
    assert all(len(message["content"]) <= 80 for canary in canaries for message in canary.body["messages"])
    with pytest.raises(KeyError):
        canary_set(("tlh",))


@pytest.mark.parametrize(("prompts", "outcome"), [(HARMFUL["en"], "block"), (HARMLESS["en"], "allow")])
def test_default_patterns_judge_the_english_canaries(prompts: dict[str, str], outcome: str) -> None:
    guard = PatternGuard(None)
    verdicts = [asyncio.run(guard.check([{"role": "user", "content": text}], "input")) for text in prompts.values()]
    assert {verdict.outcome for verdict in verdicts} == {outcome}


def test_api_key_is_sent() -> None:
    service = FakeService()
    send([BLOCK, ALLOW], service)
    assert service.keys == ["Bearer abc", "Bearer abc"]
