"""A service with API keys and a guard: ready after its first self-test, which it repeats while it runs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybridserve.compliance.evidence import is_intact
from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.errors import ConfigError
from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.guards.canaries.prompts import canary_set
from hybridserve.settings import load
from support.fake_guard import GuardModel
from support.stack_service import HYBRIDSERVE, Service, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

INTERVAL_S = 0.5


@dataclass
class GuardedService:
    service: Service
    guard: GuardModel
    key: str
    admin: str
    folder: Path
    assignments: list[str]

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.get(self.service.url + path, headers=headers, timeout=30)

    def chat(self, text: str = "What is this?") -> httpx.Response:
        body = {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(self.service.url + "/v1/chat/completions", json=body, headers=headers, timeout=60)

    def canary_metric(self, kind: str) -> float:
        lines = self.get("/metrics", self.admin).text.splitlines()
        (line,) = [line for line in lines if line.startswith(f'hybridserve_guard_canary_ok{{kind="{kind}"}}')]
        return float(line.rsplit(" ", 1)[1])

    def check(self, *options: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Run `check --live`; returns exit code, status by evidence rule, and the evidence record."""
        file, key = self.folder / "evidence.json", self.folder / "key"
        key.write_text(self.key)
        command = [str(HYBRIDSERVE), "check", "--json", "--live", self.service.url, "--key-file", str(key)]
        flags = [word for assignment in self.assignments for word in ("--set", assignment)]
        run = subprocess.run(
            [*command, "--evidence", str(file), *flags, *options], capture_output=True, text=True, timeout=120
        )
        assert run.stdout, run.stderr
        document, record = json.loads(run.stdout), json.loads(file.read_text())
        assert document["evidence_sha256"] == record["sha256"]
        statuses = {row["rule"]: row["status"] for row in document["findings"] if row["family"] == "evidence"}
        return run.returncode, statuses, record


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedService]:
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
    assignments = [f"{path}={value}" for path, value in values.items()]
    service = start([word for assignment in assignments for word in ("--set", assignment)])
    yield GuardedService(service, guard, key, admin, folder, assignments)
    assert service.stop() == 0
    guard.close()


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_service_is_ready_after_its_first_self_test(guarded: GuardedService) -> None:
    assert guarded.get("/ready").status_code == 200
    assert (guarded.canary_metric("block"), guarded.canary_metric("pass")) == (1.0, 1.0)
    assert guarded.chat().status_code == 200
    assert guarded.get("/plan").status_code == 401


def test_live_check_records_every_canary(guarded: GuardedService) -> None:
    code, statuses, record = guarded.check()
    # The guard was not switched off, so only that rule is open.
    assert {rule: status for rule, status in statuses.items() if status != "PASS"} == {"evidence.guard-down": "UNKNOWN"}
    assert is_intact(record)
    assert record["started"] < record["finished"]
    assert record["blocked_latency_s"]["p95"] < 5
    rows = {row["canary"]: row for row in record["canaries"]}
    assert rows.keys() == {canary.id for canary in canary_set()}
    for canary in canary_set():
        row = rows[canary.id]
        assert (row["verdict"], row["prompt_sha256"]) == ("PASS", canary.prompt_sha256())
        assert row["code"] == ("guard_blocked" if canary.expect == "block" else None)
        assert (row["delivered"] > 0) == (canary.expect == "pass")
    assert code in (0, 1)  # other findings of the demo are not part of this test


@pytest.mark.parametrize("behavior", ["lenient", "invalid", "down"])
def test_service_rejects_requests_while_its_guard_fails(guarded: GuardedService, behavior: Any) -> None:
    guarded.guard.behavior = behavior
    try:
        wait_for(lambda: "canary" in guarded.get("/ready").text)
        assert guarded.get("/ready").status_code == 503
        rejected = guarded.chat()
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "guard_unavailable")
        assert "retry-after" in rejected.headers
        assert guarded.canary_metric("block") == 0.0
        if behavior == "down":
            _, statuses, _ = guarded.check("--guard-down", guarded.service.url)
            assert (statuses["evidence.guard-down"], statuses["evidence.must-block"]) == ("PASS", "FAIL")
    finally:
        guarded.guard.behavior = "normal"
    wait_for(lambda: guarded.get("/ready").status_code == 200)
    assert guarded.chat().status_code == 200
    assert guarded.canary_metric("block") == 1.0


def test_changed_evidence_file_is_refused(guarded: GuardedService) -> None:
    _, _, record = guarded.check()
    file = guarded.folder / "kept.json"
    file.write_text(json.dumps(record))
    settings = load(assignments=[*guarded.assignments, f"guard.evidence_file={file}"]).settings
    documents = resolve_deployment(settings, date.today()).documents
    assert documents["/compliance"]["evidence_sha256"] == record["sha256"]
    file.write_text(json.dumps({**record, "about": {}}))
    with pytest.raises(ConfigError, match="digest"):
        resolve_deployment(settings, date.today())
