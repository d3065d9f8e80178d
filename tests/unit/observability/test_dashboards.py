"""Dashboards and rules name only exported metrics and labels; the chart's files match the code."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
from promql import groupings, parse, selectors
from ray.dashboard.consts import GPU_TAG_KEYS
from typer.testing import CliRunner

from hybridserve.cli.app import app
from hybridserve.observability.dashboards import Dashboard, Panel, dashboards
from hybridserve.observability.dashboards.grafana import dashboard
from hybridserve.observability.metrics import all_metrics
from hybridserve.observability.rules.alerts import RELEASE, RUNBOOKS, alerts
from hybridserve.observability.rules.files import rule_groups
from hybridserve.settings.telemetry import TelemetrySection

ROOT = Path(__file__).resolve().parents[3]
SECTION = TelemetrySection()
BOARDS = dashboards(SECTION)
RULES = [rule for groups in rule_groups(SECTION).values() for group in groups for rule in group["rules"]]
# Set by the target files and by the PodMonitor. `job` differs between deployments, so nothing may use it.
TARGET_LABELS = {"namespace", "release", "model", "replica"}
# Not recorded here: kube-state-metrics (docs/metrics of v2.16), the kubelet, KubeRay 1.7 (ray-operator/controllers/ray/
# metrics) and NVIDIA's DCGM exporter (etc/default-counters.csv); read 2026-11-26.
CLUSTER = {
    "kube_deployment_spec_replicas": {"namespace", "deployment"},
    "kube_deployment_status_replicas_available": {"namespace", "deployment"},
    "kube_pod_status_phase": {"namespace", "pod", "phase"},
    "kube_poddisruptionbudget_status_pod_disruptions_allowed": {"namespace", "poddisruptionbudget"},
    "kube_persistentvolumeclaim_status_phase": {"namespace", "persistentvolumeclaim", "phase"},
    "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
    "kuberay_service_condition_ready": {"namespace", "name", "condition"},
} | {
    f"DCGM_FI_DEV_{name}": {"gpu", "UUID", "Hostname", "modelName"}
    for name in ("GPU_UTIL", "FB_USED", "POWER_USAGE", "GPU_TEMP", "XID_ERRORS")
}


def known() -> dict[str, set[str]]:
    """Every series that exists at the pinned versions, with its labels."""
    recorded = json.loads((ROOT / "tests" / "data" / "exported_metrics.json").read_text())
    names = {name: set(labels) for name, labels in recorded.items()}
    for spec in all_metrics():
        labels = set(spec.labels)
        if spec.kind == "histogram":
            names |= {f"{spec.name}_bucket": labels | {"le"}, f"{spec.name}_sum": labels, f"{spec.name}_count": labels}
        else:
            names[spec.name] = labels
    for rule in RULES:
        if "record" in rule:
            inner = [names.get(name, set()) for name, _ in selectors(parse(rule["expr"]))]
            names.setdefault(rule["record"], set()).update(rule.get("labels", {}), *inner)
    # The chart's templates/monitoring/release.yaml records it.
    names[RELEASE] = {"claim"}
    return names | of_gpu_nodes() | CLUSTER | {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}


def of_gpu_nodes() -> dict[str, set[str]]:
    """Ray's metrics of GPUs, from the source of the pinned Ray: a contract test, as no GPU is here to record from."""
    source = (Path(ray.__file__).parent / "dashboard/modules/reporter/reporter_agent.py").read_text()
    names = re.findall(r'Gauge\(\s+"(node_g\w+)",[^()]*GPU_TAG_KEYS', source)
    assert names
    return {f"ray_{name}": set(GPU_TAG_KEYS) for name in names}


KNOWN = known()


def unknown_names(expr: str, legend: str = "") -> list[str]:
    """Metrics, labels of selectors, labels of groupings and labels of the legend that nothing exports."""
    tree = parse(expr)
    unknown, exported = [], set(TARGET_LABELS)
    for name, labels in selectors(tree):
        if name not in KNOWN:
            unknown.append(name)
        exported |= KNOWN.get(name, set())
        unknown += [f"{name}{{{label}}}" for label in sorted(set(labels) - KNOWN.get(name, set()) - TARGET_LABELS)]
    used = {*groupings(tree), *re.findall(r"{{(\w+)}}", legend)}
    return unknown + sorted(used - exported)


PANELS = [
    pytest.param(board, panel, id=f"{board.slug}-{panel.title.replace(' ', '_')}")
    for board in BOARDS
    for panel in board.panels()
]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_panel_queries_use_exported_names(board: Dashboard, panel: Panel) -> None:
    for expr, legend in panel.queries:
        assert unknown_names(expr, legend) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record", rule.get("alert")))
def test_rules_use_exported_names(rule: dict[str, Any]) -> None:
    assert unknown_names(rule["expr"]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(vllm:num_preemptions[5m])",
        "vllm:gpu_cache_usage_perc",
        'vllm:num_requests_waiting{why="capacity"}',
        "sum(hybridserve_state_slots_taken)",
        "ray_vllm_num_requests_running",
        "max by (bound) (hybridserve_autoscaler_replica_limit)",
    ],
)
def test_unknown_names_are_found_inside_an_expression(wrong: str) -> None:
    assert unknown_names("max(hybridserve_state_slots)") == []
    assert len(unknown_names(f"max(hybridserve_state_slots) or sum({wrong}) * 2")) == 1


def test_unknown_labels_of_a_legend_are_found() -> None:
    assert unknown_names("hybridserve_draining", "{{replica}} {{node}}") == ["node"]


def test_sums_of_ray_histograms_are_not_used() -> None:
    """Ray rebuilds observations from the middle of their buckets: the sums are wrong."""
    exprs = [expr for board in BOARDS for panel in board.panels() for expr, _ in panel.queries]
    exprs += [rule["expr"] for rule in RULES]
    names = {name for expr in exprs for name, _ in selectors(parse(expr))}
    assert [name for name in names if name.startswith("ray_") and name.endswith("_sum")] == []


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_panels_have_a_description_and_a_threshold_for_their_runbook(board: Dashboard, panel: Panel) -> None:
    assert panel.description.endswith(".")
    # A panel with a runbook shows when to read it: a threshold, or the limit as a line.
    assert panel.runbook is None or panel.limits or any("_limit" in expr for expr, _ in panel.queries)
    if panel.runbook is not None:
        assert (ROOT / "docs" / "runbooks" / f"{panel.runbook}.md").is_file()


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_only_panels_over_metrics_of_ray_name_ray(board: Dashboard, panel: Panel) -> None:
    """The other metrics are exported by pods without Ray, too."""
    if not any(re.search("ray_|kuberay", expr) for expr, _ in panel.queries):
        assert "Ray" not in panel.description


@cache
def generated(board: Dashboard) -> dict[str, Any]:
    """Grafana's panels by title."""
    return {panel["title"]: panel for panel in json.loads(dashboard(board))["panels"] if panel["type"] != "row"}


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_every_panel_has_a_unit_and_legends(board: Dashboard, panel: Panel) -> None:
    shown = generated(board)[panel.title]
    unit = shown["fieldConfig"]["defaults"]["unit"]
    assert unit == "none" if panel.kind == "table" else unit not in ("none", "short", "")
    assert all(target["legendFormat"] for target in shown["targets"])
    recorded = any(name in expr for expr, _ in panel.queries for name in ("slo:", "hybridserve:"))
    assert ("recording rules" in shown["fieldConfig"]["defaults"]["noValue"]) == recorded


@pytest.mark.parametrize(
    ("title", "colors"),
    [
        ("Requests by outcome", {"good": "green", "slow_both": "orange", "failed": "red"}),
        ("Findings", {"error PASS": "green", "warning PASS": "green", "error FAIL": "red", "warning FAIL": "orange",
                      "error WAIVED": "blue", "error UNKNOWN": "yellow"}),
        ("Verdicts", {"input allow": "green", "output block": "orange", "input error": "red"}),
        ("Requests, by status", {"200": "green", "429": "orange", "503": "red"}),
        ("Finish reasons", {"stop": "green", "length": "orange", "abort": "red", "error": "red"}),
    ],
)  # fmt: skip
def test_outcomes_have_the_same_color_on_every_panel(title: str, colors: dict[str, str]) -> None:
    (shown,) = [generated(board)[title] for board in BOARDS if title in generated(board)]
    fixed = {
        override["matcher"]["options"].strip("/"): override["properties"][0]["value"]["fixedColor"]
        for override in shown["fieldConfig"]["overrides"]
    }
    for series, color in colors.items():
        assert [each for pattern, each in fixed.items() if re.search(pattern, series)] == [color], series


def test_every_alert_has_a_panel_that_links_its_runbook() -> None:
    linked = {panel.runbook for board in BOARDS for panel in board.panels()}
    assert {alert.runbook for alert in alerts(SECTION)} - linked == set()


def test_chart_dashboards_match_the_code() -> None:
    folder = ROOT / "helm" / "hybridserve" / "files" / "dashboards"
    made = {f"{board.slug}.json": dashboard(board) for board in BOARDS}
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == made, "run `make telemetry-files`"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)
def test_grafana_json_has_variables_links_and_full_rows(board: Dashboard) -> None:
    tree = json.loads(dashboard(board))
    assert [variable["name"] for variable in tree["templating"]["list"]] == [
        "datasource",
        "namespace",
        "release",
        "model",
        "replica",
        *(["price"] if board.slug == "autoscaling" else []),
    ]
    assert {link["title"] for link in tree["links"]} == {"Dashboards", "Runbooks"}
    shown = [panel for panel in tree["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in shown] == [panel.title for panel in board.panels()]
    assert len({panel["id"] for panel in tree["panels"]}) == len(tree["panels"])
    lines: dict[int, int] = {}
    for panel in shown:
        lines[panel["gridPos"]["y"]] = lines.get(panel["gridPos"]["y"], 0) + panel["gridPos"]["w"]
    assert set(lines.values()) == {24}, "panels leave a gap"
    for panel in shown:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for link in panel.get("links", []):
            assert link["url"].startswith(RUNBOOKS)


def test_export_writes_both_formats(tmp_path: Path) -> None:
    run = CliRunner().invoke
    for form in ("classic", "resource"):
        done = run(app, ["dashboards", "export", "--out", str(tmp_path / form), "--format", form, "--json"])
        assert done.exit_code == 0, done.output
        assert len(json.loads(done.stdout)["files"]) == 7
    classic = json.loads((tmp_path / "classic" / "overview.json").read_text())
    resource = json.loads((tmp_path / "resource" / "overview.json").read_text())
    assert resource["kind"] == "Dashboard"
    assert resource["metadata"]["name"] == classic["uid"]
    assert resource["spec"]["panels"] == classic["panels"]
