"""Compliance checks of a running service: what lapses is reported, and ends the service after its grace period."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from hybridserve.compliance.lapses import lapses
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.errors import ConfigError
from hybridserve.gateway import GatewayMiddleware, GatewayState
from hybridserve.gateway.compliance_monitor import ComplianceMonitor
from hybridserve.guards import GuardVerdict, ResilientGuard
from hybridserve.settings import Settings
from support.compliance_cases import TODAY, Case, case, example
from support.fake_engine import FakeEngine, Response, request
from support.gateway_client import ANSWER, CHAT, STREAM, assert_openai_error

__all__ = ["case", "example"]

LAST_DAY = TODAY + timedelta(days=30)
WAIVER = {"rule": "guard.kind", "by": "Head of Legal", "reason": "pilot with ten users", "until": LAST_DAY.isoformat()}
KEYS = {"access": {"anonymous_scopes": ["inference"]}, "guard": {"kind": "none"}}


class Service:
    """A gateway whose compliance checks see `case` on the day `today`."""

    def __init__(self, case: Case, monkeypatch: pytest.MonkeyPatch, guard: Any = None, **license_: Any) -> None:
        self.case, self.today = case, TODAY
        tree = {**KEYS, "server": {"profile": "production"}, "license": license_}
        documents = {"/compliance": {"judged": TODAY.isoformat()}}
        spec = replace(DeploymentSpec(settings=Settings.model_validate(tree)), documents=documents)
        self.state = GatewayState(spec)
        self.app = GatewayMiddleware(FakeEngine(STREAM, ANSWER), state=self.state)
        self.monitor = ComplianceMonitor(spec, guard, self.state.metrics, self.state.publish, lambda: self.today)
        self.state.readiness.compliance = self.monitor
        monkeypatch.setattr("hybridserve.deployment.compliance_view.build_view", lambda *_: self.case.view())

    async def check(self, day: date) -> list[str]:
        self.today = day
        await self.monitor.check()
        return [lapse.rule for lapse in self.monitor.lapsed]

    async def chat(self) -> Response:
        return await request(self.app, "/v1/chat/completions", CHAT)

    async def ready(self) -> Response:
        return await request(self.app, "/ready", None, method="GET")

    @property
    def metrics(self) -> tuple[float, float]:
        metrics = self.state.metrics
        return metrics.compliance_lapses._value.get(), metrics.compliance_closed._value.get()


def waived(case: Case) -> Case:
    return case.set("guard.kind", "rules").set("license.waivers", [WAIVER])


def test_first_day_of_a_lapse_is_found(case: Case) -> None:
    view = waived(case).view()
    for today, since in ((LAST_DAY, None), (LAST_DAY + timedelta(days=1), 1), (LAST_DAY + timedelta(days=20), 1)):
        _, found = lapses(view, TODAY, today, "production")
        days = {lapse.rule: lapse.since for lapse in found}
        assert days.get("guard.kind") == (None if since is None else LAST_DAY + timedelta(days=since))
    assert lapses(view, TODAY, LAST_DAY + timedelta(days=20), "demo")[1] == []


async def test_expired_waiver_warns_and_then_closes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(waived(case), monkeypatch, grace_days=5)
    assert await service.check(TODAY) == []
    assert "guard.kind" in await service.check(LAST_DAY + timedelta(days=1))
    assert service.metrics[1] == 0
    assert (await service.chat()).status == 200
    ready = await service.ready()
    assert ready.status == 200
    assert any("guard.kind" in warning for warning in ready.json()["warnings"])
    await service.check(LAST_DAY + timedelta(days=6))
    assert service.metrics[0] >= 1
    assert service.metrics[1] == 1
    assert_openai_error(await service.chat(), 503, "compliance_closed")
    assert any("guard.kind" in reason for reason in (await service.ready()).json()["reasons"])
    renewed = {**WAIVER, "until": "2027-06-30"}
    service.case = case.set("guard.kind", "rules").set("license.waivers", [renewed])
    await service.check(LAST_DAY + timedelta(days=7))
    assert (await service.chat()).status == 200


@pytest.mark.parametrize(("path", "value"), [("license.accepted", []), ("guard.canary_interval_s", 3600.0)])
async def test_a_change_since_the_start_closes_after_the_grace_period(
    case: Case, monkeypatch: pytest.MonkeyPatch, path: str, value: Any
) -> None:
    service = Service(case, monkeypatch, grace_days=2)
    assert await service.check(TODAY) == []
    service.case = case.set(path, value)
    assert await service.check(TODAY + timedelta(days=10)) != []
    assert not service.monitor.closed
    await service.check(TODAY + timedelta(days=12))
    assert service.monitor.closed


async def test_what_another_machine_did_not_see_never_closes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(case.set("license.accepted", []), monkeypatch, grace_days=0)
    assert await service.check(TODAY) != []
    await service.check(TODAY + timedelta(days=30))
    assert not service.monitor.closed


async def test_checks_that_cannot_be_repeated_lapse(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(case, monkeypatch, grace_days=1)
    await service.check(TODAY)

    def missing(*_: object) -> None:
        raise ConfigError("license.bundle", "/b is not a folder", "create it")

    monkeypatch.setattr("hybridserve.deployment.compliance_view.build_view", missing)
    assert await service.check(TODAY + timedelta(days=1)) == ["compliance.check"]
    await service.check(TODAY + timedelta(days=2))
    assert service.monitor.closed


class NamedGuard:
    """A guard whose endpoint serves `root`."""

    name, is_local = "g", False

    def __init__(self) -> None:
        self.root: str | None = "Qwen/Qwen3Guard-Gen-4B"

    async def check(self, messages: Any, stage: Any) -> GuardVerdict:
        return GuardVerdict("allow", self.name)

    async def probe(self) -> None:
        return

    async def identity(self) -> dict[str, Any]:
        return {"root": self.root, "max_model_len": 32768}

    async def close(self) -> None:
        return


async def test_changed_guard_lapses(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = NamedGuard()
    service = Service(case, monkeypatch, ResilientGuard(guard), grace_days=1)
    assert await service.check(TODAY) == []
    guard.root = "somebody/permissive-guard"
    assert await service.check(TODAY) == ["guard.identity"]
    assert "permissive-guard" in str(service.monitor.lapsed[0])
    await service.check(TODAY + timedelta(days=1))
    assert service.monitor.closed
    guard.root = "Qwen/Qwen3Guard-Gen-4B"
    assert await service.check(TODAY + timedelta(days=1)) == []


async def test_compliance_document_is_renewed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(case, monkeypatch)
    day = TODAY + timedelta(days=3)
    await service.check(day)
    body = json.loads(json.dumps(service.state.documents["/compliance"]))
    assert (body["judged"], body["verdict"]) == (day.isoformat(), "ready")
