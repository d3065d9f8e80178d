"""A service with keys and a guard, as users run it: proven before it is ready, proven again while it runs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybridserve.compliance.evidence import is_intact
from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.guards.canaries.prompts import canary_set
from support.fake_guard import GuardModel
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

    def ask(self, text: str) -> httpx.Response:
        body = {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(self.service.url + "/v1/chat/completions", json=body, headers=headers, timeout=60)

    def canary(self, kind: str) -> float:
        lines = self.get("/metrics", self.admin).text.splitlines()
        (line,) = [one for one in lines if one.startswith(f'hybridserve_guard_canary_ok{{kind="{kind}"}}')]
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


def eventually(true: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_is_ready_once_the_guard_has_been_seen_to_work(guarded: Guarded) -> None:
    assert guarded.get("/ready").status_code == 200
    assert (guarded.canary("block"), guarded.canary("pass")) == (1.0, 1.0)
    assert guarded.ask("What is this?").status_code == 200
    assert guarded.get("/plan").status_code == 401


def test_check_live_against_the_served_stack_leaves_evidence(guarded: Guarded) -> None:
    code, document, record = guarded.check()
    live = {one["rule"]: one["status"] for one in document["findings"] if one["family"] == "evidence"}
    assert {rule for rule, status in live.items() if status != "PASS"} == {"evidence.guard-down"}
    assert live["evidence.guard-down"] == "UNKNOWN", "nobody has switched the guard off"
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
    assert code in (0, 1)  # the offline findings of the demo are no matter of this test


@pytest.mark.parametrize("mood", ["lenient", "garbage", "down"])
def test_a_guard_that_stops_working_closes_the_door_and_opens_it_again(guarded: Guarded, mood: Any) -> None:
    guarded.guard.mood = mood
    try:
        eventually(lambda: "canary" in guarded.get("/ready").text)
        assert guarded.get("/ready").status_code == 503
        refused = guarded.ask("What is this?")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "guard_unavailable")
        assert "retry-after" in refused.headers
        assert guarded.canary("block") == 0.0
        if mood == "down":
            # The drill of `check --live --guard-down`: an outage is neither a refusal nor a pass.
            _, document, _ = guarded.check("--guard-down", guarded.service.url)
            live = {one["rule"]: one["status"] for one in document["findings"] if one["family"] == "evidence"}
            assert live["evidence.guard-down"] == "PASS"
            assert live["evidence.must-block"] == "FAIL", "nothing is blocked by a guard that is down"
    finally:
        guarded.guard.mood = "well"
    eventually(lambda: guarded.get("/ready").status_code == 200)
    assert guarded.ask("What is this?").status_code == 200
    assert guarded.canary("block") == 1.0


def test_the_evidence_file_is_shown_and_a_changed_one_refused(guarded: Guarded) -> None:
    _, _, record = guarded.check()
    file = guarded.folder / "kept.json"
    file.write_text(json.dumps(record))
    record["about"] = {}
    changed = guarded.folder / "changed.json"
    changed.write_text(json.dumps(record))
    from datetime import date

    from hybridserve.errors import ConfigError
    from hybridserve.runtime.compliance_gate import enforce_compliance
    from hybridserve.settings import load

    plain = [guarded.flags[index] for index in range(1, len(guarded.flags), 2)]
    shown = enforce_compliance(load(assignments=[*plain, f"guard.evidence_file={file}"]).settings, date.today())
    assert shown.documents["/compliance"]["evidence_sha256"] == record["sha256"]
    with pytest.raises(ConfigError, match="digest"):
        enforce_compliance(load(assignments=[*plain, f"guard.evidence_file={changed}"]).settings, date.today())
