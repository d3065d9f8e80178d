"""Guard canaries against the gateway, in front of an engine that answers every prompt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from hybridserve.compliance.findings import Finding
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.gateway import GatewayMiddleware, GatewayState
from hybridserve.gateway.auth.api_keys import Key
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.internal_request import INTERNAL_TOKEN, internal_scope, request_app
from hybridserve.gateway.limits.rate_limit import RequestLimits
from hybridserve.guards import GuardVerdict, Message, Stage
from hybridserve.guards.canaries.client import send_canaries
from hybridserve.guards.canaries.judge import live_findings
from hybridserve.guards.canaries.prompts import Canary, canary_set, guard_down_canary
from hybridserve.guards.patterns import PatternGuard
from hybridserve.settings import Settings
from hybridserve.settings.access import AccessSection
from support.fake_service import FakeService

UNREACHABLE_GUARD = {
    "kind": "model",
    "url": "http://127.0.0.1:1/v1",
    "model": "guard",
    "format": "qwen3guard",
    "timeout_s": 2,
}


class CompliantEngine(FakeService):
    """A healthy engine that answers every prompt."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/health":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await super().__call__(scope, receive, send)

    def _harmful(self, messages: list[dict[str, Any]]) -> bool:
        return False


def findings_for(canaries: list[Canary], **sections: Any) -> list[Finding]:
    app = GatewayMiddleware(CompliantEngine(), Settings.model_validate(sections))

    async def run() -> list[Finding]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return live_findings(canaries, await send_canaries(client, canaries, "demo"))

    return asyncio.run(run())


def test_all_canaries_pass_with_a_guard() -> None:
    wrong = [item for item in findings_for(canary_set(("en",)), guard={"kind": "rules"}) if item.status != "PASS"]
    assert [(item.rule, item.evidence) for item in wrong] == [("evidence.guard-down", "not tested")]


def test_harmful_canaries_fail_without_a_guard() -> None:
    canaries = canary_set(("en",))
    findings = findings_for(canaries, guard={"kind": "none"})
    failed = {item.subject for item in findings if item.status == "FAIL"}
    assert failed == {canary.id for canary in canaries if canary.expect == "block"}


def test_unreachable_guard_is_reported_as_unavailable() -> None:
    (found,) = [
        item
        for item in findings_for([guard_down_canary()], guard=UNREACHABLE_GUARD)
        if item.rule == "evidence.guard-down"
    ]
    assert (found.status, found.evidence) == ("PASS", "503 guard_unavailable")


async def test_self_test_decides_whether_requests_are_accepted() -> None:
    section = {"kind": "rules", "canary_interval_s": 0.01, "canary_failures": 2}
    limits = {"anonymous_scopes": ["inference"], "max_in_flight": 1, "requests_per_minute": 3}
    settings = Settings.model_validate({"guard": section, "access": limits})
    state = GatewayState(DeploymentSpec(settings=settings))
    app = GatewayMiddleware(CompliantEngine(), state=state)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        hello = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}
        assert (await client.get("/ready")).status_code == 200, "the self-test has not started"
        state.start(app)
        early = await client.post("/v1/chat/completions", json=hello)
        assert (early.status_code, early.json()["error"]["code"]) == (503, "guard_unavailable")
        await until(client, 200)
        await asyncio.sleep(0.1)  # many more self-tests than the limit of requests per minute
        assert (await client.get("/ready")).status_code == 200
        assert (await client.post("/v1/chat/completions", json=hello)).status_code == 200
        assert state.guard is not None
        patterns, state.guard.guard.guard = state.guard.guard.guard, PermissiveGuard()
        await until(client, 503)
        rejected = await client.post("/v1/chat/completions", json=hello)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "guard_unavailable")
        state.guard.guard.guard = patterns
        await until(client, 200)


async def until(client: httpx.AsyncClient, status: int) -> None:
    async with asyncio.timeout(10):
        while (await client.get("/ready")).status_code != status:
            await asyncio.sleep(0.01)


class PermissiveGuard(PatternGuard):
    """A reachable guard that allows everything."""

    def __init__(self) -> None:
        super().__init__(None)

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        return GuardVerdict("allow", self.name)


async def test_canary_uses_no_concurrency_slot() -> None:
    limits = RequestLimits(AccessSection(max_in_flight=1))
    ours = Key("internal", frozenset({"inference"}), internal=True)
    client = Key("client", frozenset({"inference"}))
    canary, reservation = await limits.reserve(ours, 0), await limits.reserve(client, 0)
    canary.release()
    with pytest.raises(APIError):
        await limits.reserve(client, 0)
    assert await limits.reserve(ours, 0)
    reservation.release()
    (await limits.reserve(client, 0)).release()


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_own_requests_are_in_the_log_at_debug_level_only(caplog: pytest.LogCaptureFixture, level: int) -> None:
    caplog.set_level(level)
    app = GatewayMiddleware(CompliantEngine(), Settings())
    scope = internal_scope(app.state.authenticator.internal_token)
    await request_app(app, scope, "GET", "/v1/models")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client:
        await client.get("/v1/models")
    keys = [getattr(record, "key", "") for record in caplog.records if record.getMessage() == "request"]
    assert keys == (["internal", "anonymous"] if level == logging.DEBUG else ["anonymous"])


def test_clients_cannot_authenticate_as_the_service() -> None:
    settings = Settings.model_validate({"access": {"anonymous_scopes": []}, "guard": {"kind": "rules"}})
    app = GatewayMiddleware(CompliantEngine(), settings)

    async def run() -> int:
        transport = httpx.ASGITransport(app=app)
        headers = {INTERNAL_TOKEN: "1", "authorization": "Bearer canary"}
        async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
            return (await client.get("/v1/models")).status_code

    assert asyncio.run(run()) == 403


def test_harmful_canaries_fail_without_input_check() -> None:
    findings = findings_for(canary_set(("en",)), guard={"kind": "rules", "input": "off"})
    assert "evidence.must-block" in {item.rule for item in findings if item.status == "FAIL"}
