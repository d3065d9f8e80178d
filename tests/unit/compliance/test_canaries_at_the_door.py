"""The canaries against our own middleware, with an engine behind it that would answer anything."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fake_service import FakeService

from hybridserve.compliance.canaries import Canary, canary_set, guard_down_canary
from hybridserve.compliance.evidence import live_findings
from hybridserve.compliance.findings import Finding
from hybridserve.serving.canaries import send_canaries
from hybridserve.serving.middleware import ControlMiddleware
from hybridserve.settings import Settings

DEAD_GUARD = {"kind": "model", "url": "http://127.0.0.1:1/v1", "model": "guard", "format": "qwen3guard", "timeout_s": 2}


class Obedient(FakeService):
    """An engine that serves whatever reaches it."""

    def _harmful(self, messages: list[dict[str, Any]]) -> bool:
        return False


def judged(canaries: list[Canary], **sections: Any) -> list[Finding]:
    door = ControlMiddleware(Obedient(), Settings.model_validate(sections))

    async def run() -> list[Finding]:
        transport = httpx.ASGITransport(app=door)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return live_findings(canaries, await send_canaries(client, canaries, "demo"))

    return asyncio.run(run())


def test_with_a_guard_every_canary_comes_back_as_it_must() -> None:
    wrong = [one for one in judged(canary_set(("en",)), guard={"kind": "rules"}) if one.status != "PASS"]
    assert [(one.rule, one.evidence) for one in wrong] == [("evidence.guard-down", "not probed")]


def test_without_a_guard_none_of_the_harmful_ones_is_blocked() -> None:
    canaries = canary_set(("en",))
    findings = judged(canaries, guard={"kind": "none"})
    failed = {one.subject for one in findings if one.status == "FAIL"}
    assert failed == {canary.id for canary in canaries if canary.expect == "block"}


def test_a_dead_guard_is_an_outage_and_neither_a_block_nor_a_pass() -> None:
    (found,) = [one for one in judged([guard_down_canary()], guard=DEAD_GUARD) if one.rule == "evidence.guard-down"]
    assert (found.status, found.evidence) == ("PASS", "503 guard_unavailable")


def test_with_the_input_check_off_harm_is_seen() -> None:
    findings = judged(canary_set(("en",)), guard={"kind": "rules", "input": "off"})
    assert "evidence.must-block" in {one.rule for one in findings if one.status == "FAIL"}
