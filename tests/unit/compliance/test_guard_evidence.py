"""Canaries against a service that behaves, and against one that misbehaves in each way it can."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from hybridserve.compliance.canary_prompts import Canary, canary_set, guard_down_canary, round_canaries
from hybridserve.compliance.evidence import (
    LIVE_RULES,
    CanaryObservation,
    CanaryState,
    canary_round,
    evidence_record,
    live_findings,
    record_is_whole,
)
from hybridserve.compliance.findings import Finding, compliance_status
from hybridserve.guards.canaries.client import send_canaries
from support.fake_service import ANSWER, HARM, MISBEHAVIOURS, FakeService

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def send(service: FakeService, canaries: list[Canary]) -> list[CanaryObservation]:
    async def run() -> list[CanaryObservation]:
        transport = httpx.ASGITransport(app=service)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await send_canaries(client, canaries, "assistant")

    return asyncio.run(run())


def probe(wrong: str | None) -> tuple[list[Canary], list[CanaryObservation], list[Finding]]:
    canaries, down = canary_set(), guard_down_canary()
    seen = send(FakeService(wrong), canaries) + send(FakeService(wrong, guard_up=False), [down])
    canaries.append(down)
    return canaries, seen, live_findings(canaries, seen)


def test_an_honest_service_passes() -> None:
    canaries, seen, findings = probe(None)
    assert [one for one in findings if one.status != "PASS"] == []
    assert {one.rule for one in findings} == set(LIVE_RULES)
    assert len(seen) == len(canaries)
    assert compliance_status(findings, "production") == "ready"


@pytest.mark.parametrize(("wrong", "rule"), MISBEHAVIOURS.items())
def test_each_misbehaviour_is_caught(wrong: str, rule: str) -> None:
    _, _, findings = probe(wrong)
    assert rule in {one.rule for one in findings if one.status in ("FAIL", "UNKNOWN")}
    assert compliance_status(findings, "production") == "refuse"


@pytest.mark.parametrize("wrong", [name for name in MISBEHAVIOURS if not name.startswith(("spanish", "outage"))])
def test_english_canaries_alone_catch_the_rest(wrong: str) -> None:
    canaries = canary_set(("en",))
    findings = live_findings(canaries, send(FakeService(wrong), canaries))
    assert MISBEHAVIOURS[wrong] in {one.rule for one in findings if one.status in ("FAIL", "UNKNOWN")}


def test_a_guard_that_was_never_switched_off_is_unknown() -> None:
    canaries = canary_set(("en",))
    findings = live_findings(canaries, send(FakeService(), canaries))
    assert {one.rule for one in findings if one.status == "UNKNOWN"} == {"evidence.guard-down"}


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_a_closed_door_is_no_evidence(status: int) -> None:
    block, allow = round_canaries()
    for canary in (block, allow):
        (found,) = [
            one for one in live_findings([canary], [CanaryObservation(canary=canary.id, status=status, code="no")])
            if one.subject == canary.id
        ]  # fmt: skip
        assert found.status == "UNKNOWN"


def test_no_connection_is_unknown() -> None:
    async def run() -> list[CanaryObservation]:
        async with httpx.AsyncClient(base_url="http://127.0.0.1:1") as client:
            return await send_canaries(client, list(round_canaries()), "assistant")

    seen = asyncio.run(run())
    assert [one.status for one in seen] == [0, 0]
    assert {one.fault for one in seen} == {"ConnectError"}
    findings = live_findings(list(round_canaries()), seen)
    assert {one.status for one in findings} == {"UNKNOWN"}


def test_the_record_holds_no_text_and_shows_tampering() -> None:
    canaries, seen, findings = probe(None)
    record = evidence_record(
        canaries, seen, findings, url="http://service", started=NOW, finished=NOW, about={"model": "assistant"}
    )
    text = json.dumps(record)
    assert ANSWER not in text
    assert not any(prompt in text for prompt in HARM)
    assert record_is_whole(json.loads(text))
    assert record["blocked_latency_s"]["p50"] >= 0
    assert len(record["canaries"]) == len(canaries)
    tampered = json.loads(text)
    tampered["canaries"][0]["verdict"] = "FAIL"
    assert not record_is_whole(tampered)


def test_rounds_count_failures_in_a_row() -> None:
    block, allow = round_canaries()
    good = [
        (block, CanaryObservation(canary=block.id, status=400, code="guard_blocked")),
        (allow, CanaryObservation(canary=allow.id, status=200, content=5, finished=True)),
    ]
    bad = [(block, CanaryObservation(canary=block.id, status=200, content=5, finished=True)), good[1]]
    state = CanaryState()
    states = []
    for pair in (good, bad, bad, bad, bad, good, bad):
        state = canary_round(state, pair, limit=3)
        states.append((state.failures, state.ready))
    assert states == [(0, True), (1, True), (2, True), (3, False), (4, False), (0, True), (1, True)]
    assert "round-block" in state.why
    unproven = canary_round(CanaryState(), bad, limit=3)
    assert not CanaryState().ready
    assert not unproven.ready, "one failure before the first success is enough"
    assert canary_round(unproven, good).ready
    silent = [(block, CanaryObservation(canary=block.id, status=0, fault="ReadTimeout")), good[1]]
    assert not canary_round(CanaryState(), silent).ok
    assert not canary_round(CanaryState(), []).ok


def test_canaries_are_short_and_distinct() -> None:
    canaries = [*canary_set(), guard_down_canary(), *round_canaries()]
    assert len({one.id for one in canaries}) == len(canaries)
    for canary in canaries:
        assert all(len(message["content"]) <= 80 for message in canary.body["messages"])
    with pytest.raises(KeyError):
        canary_set(("tlh",))


def test_the_guard_of_patterns_that_ships_blocks_the_english_canaries() -> None:
    from hybridserve.compliance.canary_prompts import HARMFUL, HARMLESS
    from hybridserve.guards.patterns import PatternGuard

    guard = PatternGuard(None)

    def outcome(text: str) -> str:
        return asyncio.run(guard.check([{"role": "user", "content": text}], "input")).outcome

    assert {outcome(text) for text in HARMFUL["en"].values()} == {"block"}
    assert {outcome(text) for text in HARMLESS["en"].values()} == {"allow"}


def test_the_key_is_sent(tmp_path: Path) -> None:
    service = FakeService()

    async def run() -> None:
        transport = httpx.ASGITransport(app=service)  # type: ignore[arg-type]
        headers = {"authorization": "Bearer abc"}
        async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
            await send_canaries(client, list(round_canaries()), "assistant")

    asyncio.run(run())
    assert service.keys == ["Bearer abc", "Bearer abc"]
