"""A service with keys and a guard: guard canaries before it is ready and while it runs, live checks, evidence."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybridserve.compliance.evidence import is_intact
from hybridserve.errors import ConfigError
from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.guards.canaries.prompts import canary_set
from hybridserve.runtime.compliance_gate import enforce_compliance
from hybridserve.settings import load
from support.fake_guard import GuardModel
from support.prometheus_server import wait_until
from support.stack_service import HYBRIDSERVE, Service, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

INTERVAL_S = 0.5


@dataclass
class Guarded:
    service: Service
    guard: GuardModel
    key: str
    admin: str
    folder: Path
    flags: list[str]

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.get(self.service.url + path, headers=headers, timeout=30)

    def chat(self, text: str) -> httpx.Response:
        body = {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(self.service.url + "/v1/chat/completions", json=body, headers=headers, timeout=60)

    def canary(self, kind: str) -> float:
        lines = self.get("/metrics", self.admin).text.splitlines()
        (line,) = [line for line in lines if line.startswith(f'hybridserve_guard_canary_ok{{kind="{kind}"}}')]
        return float(line.rsplit(" ", 1)[1])

    def check(self, *more: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
        record = self.folder / "evidence.json"
        key = self.folder / "key"
        key.write_text(self.key)
        command = [str(HYBRIDSERVE), "check", "--json", "--live", self.service.url, "--key-file", str(key)]
        run = subprocess.run(
            [*command, "--evidence", str(record), *self.flags, *more], capture_output=True, text=True, timeout=120
        )
        assert run.stdout, run.stderr
        return run.returncode, json.loads(run.stdout), json.loads(record.read_text())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    guard, key, admin = GuardModel(), new_key(), new_key()
    keys = folder / "keys.txt"
    keys.write_text(f"{key_line('user', key, rpm=6000)}\n{key_line('root', admin, ('inference', 'metrics'))}\n")
    values = {
        "access.keys_file": keys,
        "guard.kind": "model",
        "guard.url": guard.url,
        "guard.model": guard.name,
        "guard.format": "qwen3guard",
        "guard.canary_interval_s": INTERVAL_S,
        "guard.canary_failures": 2,
        "guard.breaker_reset_s": 0.5,
    }
    flags = [part for path, value in values.items() for part in ("--set", f"{path}={value}")]
    service = start(flags)
    yield Guarded(service, guard, key, admin, folder, flags)
    assert service.stop() == 0
    guard.close()


def test_service_is_ready_after_passing_guard_canaries(guarded: Guarded) -> None:
    assert guarded.get("/ready").status_code == 200
    assert (guarded.canary("block"), guarded.canary("pass")) == (1.0, 1.0)
    assert guarded.chat("What is this?").status_code == 200
    assert guarded.get("/plan").status_code == 401


def test_live_check_writes_evidence(guarded: Guarded) -> None:
    code, document, record = guarded.check()
    live = {finding["rule"]: finding["status"] for finding in document["findings"] if finding["family"] == "evidence"}
    assert {rule for rule, status in live.items() if status != "PASS"} == {"evidence.guard-down"}
    assert live["evidence.guard-down"] == "UNKNOWN", "the guard is on"
    assert document["evidence_sha256"] == record["sha256"]
    assert is_intact(record)
    assert record["started"] < record["finished"]
    assert record["blocked_latency_s"]["p95"] < 5
    rows = {row["canary"]: row for row in record["canaries"]}
    assert rows.keys() == {canary.id for canary in canary_set()}, "every canary was sent"
    for canary in canary_set():
        row = rows[canary.id]
        assert (row["verdict"], row["prompt_sha256"]) == ("PASS", canary.prompt_sha256())
        if canary.expect == "block":
            assert (row["code"], row["delivered"]) == ("guard_blocked", 0)
        else:
            assert (row["status"], row["code"]) == (200, None)
            assert row["delivered"] > 0
    assert code in (0, 1)  # 1: offline findings of the demo


@pytest.mark.parametrize("behavior", ["lenient", "invalid", "down"])
def test_requests_are_rejected_while_guard_canaries_fail(guarded: Guarded, behavior: Any) -> None:
    guarded.guard.behavior = behavior
    try:
        wait_until(lambda: "canary" in guarded.get("/ready").text, 20)
        assert guarded.get("/ready").status_code == 503
        rejected = guarded.chat("What is this?")
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "guard_unavailable")
        assert "retry-after" in rejected.headers
        assert guarded.canary("block") == 0.0
        if behavior == "down":
            # `check --live --guard-down`: an outage is neither a block nor a pass.
            _, document, _ = guarded.check("--guard-down", guarded.service.url)
            live = {
                finding["rule"]: finding["status"]
                for finding in document["findings"]
                if finding["family"] == "evidence"
            }
            assert live["evidence.guard-down"] == "PASS"
            assert live["evidence.must-block"] == "FAIL", "nothing is blocked by a guard that is down"
    finally:
        guarded.guard.behavior = "normal"
    wait_until(lambda: guarded.get("/ready").status_code == 200, 20)
    assert guarded.chat("What is this?").status_code == 200
    assert guarded.canary("block") == 1.0


def test_changed_evidence_file_is_refused(guarded: Guarded) -> None:
    _, _, record = guarded.check()
    file = guarded.folder / "kept.json"
    file.write_text(json.dumps(record))
    record["about"] = {}
    changed = guarded.folder / "changed.json"
    changed.write_text(json.dumps(record))
    plain = [guarded.flags[index] for index in range(1, len(guarded.flags), 2)]
    shown = enforce_compliance(load(assignments=[*plain, f"guard.evidence_file={file}"]).settings, date.today())
    assert shown.documents["/compliance"]["evidence_sha256"] == record["sha256"]
    with pytest.raises(ConfigError, match="digest"):
        enforce_compliance(load(assignments=[*plain, f"guard.evidence_file={changed}"]).settings, date.today())
