"""The proof: a real service, a real Prometheus, mixed traffic, and every panel, rule and annotation asked for data.

HYBRIDSERVE_PICTURES names a folder to draw the dashboards into, from this run.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from guard_model import GuardModel
from prometheus_server import script, start_prometheus, wait_until
from stack_service import HYBRIDSERVE, Service, free_port, start

from hybridserve.compliance.canaries import HARMFUL
from hybridserve.serving.middleware.keys import key_line, new_key
from hybridserve.settings.telemetry import TelemetrySection
from hybridserve.telemetry.boards import boards
from hybridserve.telemetry.grafana import SCALED
from hybridserve.telemetry.query import Prometheus
from hybridserve.telemetry.rules import rule_groups

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
SECTION = TelemetrySection()
RATE, STEP_S, TRAFFIC_S = "15s", 2.0, 25.0
HARM = next(iter(next(iter(HARMFUL.values())).values()))


@dataclass
class Watched:
    """A service under the eyes of a Prometheus, after mixed traffic."""

    service: Service
    prometheus: Prometheus
    start: float
    end: float
    statuses: list[int]

    def series(self, expr: str) -> list[tuple[dict[str, str], tuple[tuple[float, float], ...]]]:
        asked = script("render_dashboards").filled(expr, RATE)
        lines = self.prometheus.range(asked, self.start, self.end, STEP_S)
        return [(line.labels, line.points) for line in lines if line.points]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    targets = folder / "targets"
    targets.mkdir()
    prometheus, process = start_prometheus(folder, targets)
    guard, key, slow = GuardModel(), new_key(), new_key()
    (folder / "keys").write_text(f"{key_line('user', key, rpm=60000, tpm=10**9)}\n{key_line('slow', slow, rpm=1)}\n")
    values = {
        "telemetry.targets_dir": targets, "telemetry.metrics_port": free_port(), "access.keys_file": folder / "keys",
        "guard.kind": "model", "guard.url": guard.url, "guard.model": guard.name, "guard.format": "qwen3guard",
        "guard.canary_interval_s": 2, "engine.max_num_seqs": 4, "scaling.max_replicas": 2, "scaling.start_up_s": 20,
    }  # fmt: skip
    service = start([part for path, value in values.items() for part in ("--set", f"{path}={value}")])
    try:
        wait_until(lambda: len(up(prometheus)) >= 3, 30)
        time.sleep(2)
        began = time.time()
        statuses = traffic(service, key, slow)
        time.sleep(4)
        yield Watched(service, prometheus, began, time.time(), statuses)
    finally:
        code = service.stop()
        process.terminate()
        process.wait(timeout=20)
        guard.close()
    assert code == 0


def up(prometheus: Prometheus) -> list[dict[str, str]]:
    return [line.labels for line in prometheus.now('up{job="hybridserve"} == 1')]


def traffic(service: Service, key: str, slow: str) -> list[int]:
    """More users than slots for a while, and everything that can go wrong with a request; the statuses seen."""
    ended = time.monotonic() + TRAFFIC_S
    statuses: list[int] = []
    lock = threading.Lock()
    client = httpx.Client(base_url=service.url, timeout=120, trust_env=False)

    def post(secret: str, body: dict[str, Any], route: str = "chat/completions") -> None:
        answer = client.post(f"/v1/{route}", json=body, headers={"authorization": f"Bearer {secret}"})
        with lock:
            statuses.append(answer.status_code)

    def chat(text: str, **more: Any) -> dict[str, Any]:
        return {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 32, **more}

    def user(number: int) -> None:
        prompt = [5 + (place % 90) for place in range(400)] + [7, 8, 9 + number]
        while time.monotonic() < ended:
            body = {"model": "demo", "prompt": prompt, "max_tokens": 48, "ignore_eos": True}
            post(key, body, "completions")
            post(key, chat("What is a list?", n=2))

    def mishaps() -> None:
        while time.monotonic() < ended:
            post(key, chat(HARM))
            post("sk-nobody", chat("Who am I?"))
            post(key, chat("Hello", max_tokens=10**6))
            post(key, {**chat("Hello"), "model": "other"})
            post(slow, chat("Hello"))
            headers = {"authorization": f"Bearer {key}"}
            with client.stream("POST", "/v1/chat/completions", json=chat("Hi", stream=True), headers=headers) as answer:
                next(answer.iter_raw(), None)  # and goes away
            time.sleep(0.5)

    with ThreadPoolExecutor(10) as pool:
        for done in [*(pool.submit(user, number) for number in range(9)), pool.submit(mishaps)]:
            done.result()
    client.close()
    return statuses


def test_the_traffic_was_mixed(watched: Watched) -> None:
    assert {200, 400, 401, 429} <= set(watched.statuses)


def test_each_process_is_a_target_of_its_own(watched: Watched) -> None:
    targets = up(watched.prometheus)
    assert {one.get("exporter", one.get("replica", "")) for one in targets} >= {"controller", "ray"}
    assert all(one["namespace"] == "local" for one in targets)


PANELS = [
    pytest.param(panel, id=f"{board.slug}-{panel.title.replace(' ', '_')}")
    for board in boards(SECTION)
    for panel in board.panels()
]


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_of_every_panel_has_data(watched: Watched, panel: Any) -> None:
    for query in panel.queries:
        found = watched.series(query.expr)
        if not found and panel.rare is not None:
            pytest.skip(f"{panel.rare}")
        assert found, query.expr
        labels = [part.split("}}")[0] for part in query.legend.split("{{")[1:]]
        assert all(label in series for label in labels for series, _ in found), (query.legend, found[0][0])
        shares = panel.unit == "percentunit" and panel.highest == 1
        assert not shares or all(0 <= value <= 1.0001 for _, points in found for _, value in points)


def test_every_rule_is_evaluated_and_every_recording_has_data(watched: Watched) -> None:
    groups = watched.prometheus.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    ours = [rule for groups in rule_groups(SECTION).values() for group in groups for rule in group["rules"]]
    assert len(rules) == len(ours)
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    for rule in ours:
        if "record" in rule:
            chosen = ", ".join(f'{name}="{value}"' for name, value in rule.get("labels", {}).items())
            assert watched.series(f"{rule['record']}{{{chosen}}}"), rule["record"]


def test_alerts_that_fire_are_told_in_words(watched: Watched) -> None:
    """No template of an annotation is left open, and a scaled, healthy service has nobody called."""
    firing = [one for one in watched.prometheus.api("alerts")["alerts"] if one["state"] == "firing"]
    for alert in firing:
        assert not any("<no value>" in text or "{{" in text for text in alert["annotations"].values()), alert
    calm = {"HybridServeEngineDown", "HybridServeMetricsMissing", "HybridServePlanDrift", "HybridServeGuardDown",
            "HybridServeGuardCanaryFailing", "HybridServeEngineStuck", "HybridServeScalerBlind"}  # fmt: skip
    assert calm & {alert["labels"]["alertname"] for alert in firing} == set()


def test_the_scaling_event_is_marked(watched: Watched) -> None:
    assert watched.series(SCALED)


def test_numbers_agree_with_what_was_sent(watched: Watched) -> None:
    """A client's count of good answers is the door's: no scrape is of another replica's numbers."""
    (line,) = watched.prometheus.now('sum(hybridserve_requests_rejected_total{reason="guard_blocked_input"})')
    blocked = line.points[0][1]
    assert blocked > 0
    (line,) = watched.prometheus.now("sum(vllm:request_success_total)")
    assert line.points[0][1] >= watched.statuses.count(200)


def test_top_shows_the_same_service(watched: Watched) -> None:
    command = [str(HYBRIDSERVE), "top", "--once", "--prometheus", watched.prometheus.url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "slots" in shown.stdout
    assert "demo" in shown.stdout


def test_pictures(watched: Watched, tmp_path: Path) -> None:
    out = Path(os.environ.get("HYBRIDSERVE_PICTURES", tmp_path))
    out.mkdir(parents=True, exist_ok=True)
    render = script("render_dashboards").render
    for file in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        picture = render(file, watched.prometheus, watched.start, watched.end, RATE, out)
        assert picture.stat().st_size > 20_000
