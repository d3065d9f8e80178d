"""A real service with mixed traffic and a real Prometheus: every panel, rule and annotation has data.

`make telemetry-pictures` draws the dashboards of docs/ from this run: TELEMETRY_PICTURES is the folder, and the
traffic lasts TELEMETRY_TRAFFIC_S seconds.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybridserve.gateway.auth.api_keys import key_line, new_key
from hybridserve.guards.canaries.prompts import HARMFUL
from hybridserve.observability.dashboards import dashboards
from hybridserve.observability.dashboards.grafana import SCALED
from hybridserve.observability.metrics import all_metrics
from hybridserve.observability.prometheus_api import Prometheus
from hybridserve.observability.rules.files import rule_groups
from hybridserve.settings.telemetry import TelemetrySection
from support.fake_guard import GuardModel
from support.prometheus_server import script, start_prometheus, wait_until
from support.stack_service import HYBRIDSERVE, Service, free_port, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
SECTION = TelemetrySection()
RATE, STEP_S = "15s", 2.0
TRAFFIC_S = float(os.environ.get("TELEMETRY_TRAFFIC_S", 25))
# Longer than the shortest cacheable prefix.
SHARED = "What is a list, and what is a state slot, and what is a block? " * 40
# A cache that four sequences fill to a half, so that panels are not empty.
POOL_BYTES = 8 * 2**20
# Minimum rounds of failing requests, and the longest wait for a scaling event on a slow machine.
ROUNDS, SCALED_WITHIN_S = 3, 90.0
HARMFUL_PROMPT = next(iter(next(iter(HARMFUL.values())).values()))


@dataclass
class Watched:
    """A service scraped by a Prometheus, after mixed traffic."""

    service: Service
    prometheus: Prometheus
    start: float
    end: float
    statuses: list[int]

    def series(self, expr: str) -> list[tuple[dict[str, str], tuple[tuple[float, float], ...]]]:
        query = script("render_dashboards").filled(expr, RATE)
        lines = self.prometheus.query_range(query, self.start, self.end, STEP_S)
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
        "guard.canary_interval_s": 2, "engine.max_num_seqs": 4, "engine.kv_cache_memory_bytes": POOL_BYTES,
        "scaling.max_replicas": 2, "scaling.start_up_s": 20,
    }  # fmt: skip
    service = None
    try:
        service = start([part for path, value in values.items() for part in ("--set", f"{path}={value}")])
        wait_until(lambda: len(up(prometheus)) >= 3, 30)
        time.sleep(2)
        began = time.time()
        statuses = traffic(service, key, slow, lambda: target_replicas(prometheus) > 1)
        time.sleep(4)
        yield Watched(service, prometheus, began, time.time(), statuses)
    finally:
        code = service.stop() if service is not None else None
        process.terminate()
        process.wait(timeout=20)
        guard.close()
    assert code == 0


def up(prometheus: Prometheus) -> list[dict[str, str]]:
    return [line.labels for line in prometheus.query('up{job="hybridserve"} == 1')]


def target_replicas(prometheus: Prometheus) -> float:
    """Target number of replicas of Ray Serve."""
    return sum(line.points[0][1] for line in prometheus.query("max(hybridserve_autoscaler_target_replicas)"))


def traffic(service: Service, key: str, slow: str, scaled: Callable[[], bool]) -> list[int]:
    """More users than slots until the service scales up, and requests that fail in every way."""
    began = time.monotonic()
    statuses: list[int] = []
    lock = threading.Lock()
    ended = threading.Event()
    client = httpx.Client(base_url=service.url, timeout=120, trust_env=False)

    def post(secret: str, body: dict[str, Any]) -> None:
        answer = client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {secret}"})
        with lock:
            statuses.append(answer.status_code)

    def chat(text: str, **more: Any) -> dict[str, Any]:
        return {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 32, **more}

    def user(number: int) -> None:
        while not ended.is_set():
            post(key, chat(f"{SHARED} What is the number {number}?", max_tokens=48, ignore_eos=True))
            post(key, chat("What is a list?", n=2))

    def failures() -> None:
        rounds = 0
        while rounds < ROUNDS or not ended.is_set():
            rounds += 1
            post(slow, chat("Hello"))
            post(slow, chat("Hello"))
            post(key, chat(HARMFUL_PROMPT))
            post("sk-nobody", chat("Who am I?"))
            post(key, chat("Hello", max_tokens=10**6))
            post(key, {**chat("Hello"), "model": "other"})
            body = chat("Hi", stream=True, max_tokens=500, ignore_eos=True)
            headers = {"authorization": f"Bearer {key}"}
            with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
                next(answer.iter_raw(), None)  # and disconnects
            time.sleep(0.5)

    with ThreadPoolExecutor(10) as pool:
        working = [*(pool.submit(user, number) for number in range(9)), pool.submit(failures)]
        while time.monotonic() - began < TRAFFIC_S or (
            not scaled() and time.monotonic() - began < TRAFFIC_S + SCALED_WITHIN_S
        ):
            time.sleep(1)
        ended.set()
        for done in working:
            done.result()
    client.close()
    return statuses


def test_traffic_is_mixed(watched: Watched) -> None:
    assert {200, 400, 401, 429} <= set(watched.statuses)


def test_each_process_is_a_separate_target(watched: Watched) -> None:
    targets = up(watched.prometheus)
    assert {target.get("exporter", target.get("replica", "")) for target in targets} >= {"controller", "ray"}
    assert all(target["namespace"] == "local" for target in targets)


# Exported by a replica that checks its engine at start; tests/engine/verify_suite.py has one.
AT_START = ("hybridserve_verify_passed", "hybridserve_verify_deviation")

PANELS = [
    pytest.param(panel, id=f"{board.slug}-{panel.title.replace(' ', '_')}")
    for board in dashboards(SECTION)
    for panel in board.panels()
]


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_query_has_data(watched: Watched, panel: Any) -> None:
    for expr, legend in panel.queries:
        found = watched.series(expr)
        if not found and panel.rare is not None:
            pytest.skip(f"{panel.rare}")
        assert found, expr
        labels = [part.split("}}")[0] for part in legend.split("{{")[1:]]
        assert all(label in series for label in labels for series, _ in found), (legend, found[0][0])
        shares = panel.unit == "percentunit" and panel.highest == 1
        assert not shares or all(0 <= value <= 1.0001 for _, points in found for _, value in points)


def test_every_hybridserve_metric_is_exported(watched: Watched) -> None:
    """With Ray; test_data_paths covers the other data paths."""
    for spec in all_metrics():
        if spec.name in AT_START:
            continue
        name = f"{spec.name}_count" if spec.kind == "histogram" else spec.name
        labels = {label for series, _ in watched.series(name) for label in series}
        assert labels >= {"namespace", "model", "replica", *spec.labels}, name


def test_promtool_accepts_the_scraped_metrics(watched: Watched) -> None:
    promtool = script("debian_tools").fetch("prometheus") / "promtool"
    for target in up(watched.prometheus):
        if "replica" in target:
            text = httpx.get(f"http://{target['instance']}/metrics", trust_env=False, timeout=30).text
            exposition = "".join(f"{line}\n" for line in text.splitlines() if re.match(r"(# \w+ )?hybridserve_", line))
            done = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, text=True)
            assert (done.returncode, done.stdout + done.stderr) == (0, ""), target


def test_every_metric_of_an_alert_has_data(watched: Watched) -> None:
    """An inactive alert looks like an alert that can never fire."""
    for group in rule_groups(SECTION)["alerts.yaml"]:
        for rule in group["rules"]:
            for name in set(re.findall(r"\b(?:vllm:|hybridserve_|slo:)[\w:]+", rule["expr"])):
                assert name in AT_START or watched.series(name), (rule["alert"], name)


def test_rules_are_evaluated_and_recordings_have_data(watched: Watched) -> None:
    groups = watched.prometheus.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    expected = [rule for groups in rule_groups(SECTION).values() for group in groups for rule in group["rules"]]
    assert len(rules) == len(expected)
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    for rule in expected:
        if "record" in rule:
            chosen = ", ".join(f'{name}="{value}"' for name, value in rule.get("labels", {}).items())
            assert watched.series(f"{rule['record']}{{{chosen}}}"), rule["record"]


def test_firing_alerts_have_complete_texts(watched: Watched) -> None:
    """Every template of an annotation is filled in, and a healthy service does not page."""
    firing = [alert for alert in watched.prometheus.api("alerts")["alerts"] if alert["state"] == "firing"]
    for alert in firing:
        assert not any("<no value>" in text or "{{" in text for text in alert["annotations"].values()), alert
    inactive = {"HybridServeEngineDown", "HybridServeMetricsMissing", "HybridServePlanDrift", "HybridServeGuardDown",
            "HybridServeGuardCanaryFailing", "HybridServeEngineStalled",
            "HybridServeAutoscalerMetricsMissing"}  # fmt: skip
    assert inactive & {alert["labels"]["alertname"] for alert in firing} == set()


def test_scaling_event_is_annotated(watched: Watched) -> None:
    assert watched.series(SCALED)


def test_counters_agree_with_the_requests(watched: Watched) -> None:
    """The client's counts are those of the gateway: no scrape has another replica's metrics."""
    (line,) = watched.prometheus.query('sum(hybridserve_requests_rejected_total{reason="guard_blocked_input"})')
    blocked = line.points[0][1]
    assert blocked > 0
    (line,) = watched.prometheus.query("sum(vllm:request_success_total)")
    assert line.points[0][1] >= watched.statuses.count(200)


def test_top_shows_the_service(watched: Watched) -> None:
    command = [str(HYBRIDSERVE), "top", "--once", "--prometheus", watched.prometheus.url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "slots" in shown.stdout
    assert "demo" in shown.stdout


def test_pictures(watched: Watched, tmp_path: Path) -> None:
    out = Path(os.environ.get("TELEMETRY_PICTURES", tmp_path))
    out.mkdir(parents=True, exist_ok=True)
    drawing = script("render_dashboards")
    span = drawing.Span(watched.prometheus, watched.start, watched.end, RATE)
    for file in sorted((ROOT / "helm" / "hybridserve" / "files" / "dashboards").glob("*.json")):
        picture = drawing.render(file, span, out)
        assert picture.stat().st_size > 20_000
