"""Dashboards: the files are the code's, every panel explains itself, and every name is one that something exports."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
from promql import parse, selectors
from ray.dashboard.consts import GPU_TAG_KEYS
from typer.testing import CliRunner

from hybridserve.cli.app import app
from hybridserve.errors import EnvironmentFault
from hybridserve.observability.dashboards import Dashboard, Panel, dashboards
from hybridserve.observability.dashboards.grafana import dashboard
from hybridserve.observability.metrics import all_metrics
from hybridserve.observability.rules.alerts import RUNBOOKS, alerts
from hybridserve.observability.rules.files import rule_groups
from hybridserve.settings.telemetry import TelemetrySection

ROOT = Path(__file__).resolve().parents[3]
SECTION = TelemetrySection()
BOARDS = dashboards(SECTION)
RULES = [rule for groups in rule_groups(SECTION).values() for group in groups for rule in group["rules"]]
# Put on by the target files and by the PodMonitor. `job` differs from place to place: nothing may ask for it.
TARGET_LABELS = {"namespace", "model", "replica"}


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
            names.setdefault(rule["record"], set()).update(rule.get("labels", {}))
    return names | of_gpu_nodes() | {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}


def of_gpu_nodes() -> dict[str, set[str]]:
    """What Ray exports of a GPU, from its own table: here there is none to record it from."""
    source = (Path(ray.__file__).parent / "dashboard/modules/reporter/reporter_agent.py").read_text()
    names = re.findall(r'Gauge\(\s+"(node_g\w+)",[^()]*GPU_TAG_KEYS', source)
    assert names
    return {f"ray_{name}": set(GPU_TAG_KEYS) for name in names}


def asked(expr: str) -> list[tuple[str, set[str]]]:
    """Metrics and their labels, for the names that are not in `known`."""
    names = known()
    return [
        (name, set(labels) - names.get(name, set()) - TARGET_LABELS)
        for name, labels in selectors(parse(expr))
        if name not in names or set(labels) - names[name] - TARGET_LABELS
    ]


PANELS = [
    pytest.param(board, panel, id=f"{board.slug}-{panel.title.replace(' ', '_')}")
    for board in BOARDS
    for panel in board.panels()
]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_every_query_of_a_panel_names_what_is_exported(board: Dashboard, panel: Panel) -> None:
    for query in panel.queries:
        assert asked(query.expr) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record", rule.get("alert")))
def test_every_rule_names_what_is_exported(rule: dict[str, Any]) -> None:
    assert asked(rule["expr"]) == []


@pytest.mark.parametrize(
    "dead",
    [
        "rate(vllm:num_preemptions[5m])",
        "vllm:gpu_cache_usage_perc",
        'vllm:num_requests_waiting{why="capacity"}',
        "sum(hybridserve_state_slots_taken)",
        "ray_vllm_num_requests_running",
    ],
)
def test_names_that_nothing_exports_are_found(dead: str) -> None:
    assert asked(f"max(x_ok) or {dead}".replace("max(x_ok) or ", "")) != []


def test_ray_histograms_are_never_summed() -> None:
    """Ray rebuilds observations from the middle of their buckets: their sums are false."""
    exprs = [query.expr for board in BOARDS for panel in board.panels() for query in panel.queries]
    exprs += [rule["expr"] for rule in RULES]
    names = {name for expr in exprs for name, _ in selectors(parse(expr))}
    assert [name for name in names if name.startswith("ray_") and name.endswith("_sum")] == []


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_every_panel_explains_itself(board: Dashboard, panel: Panel) -> None:
    assert panel.description.endswith(".")
    assert panel.unit
    # A panel that sends to a runbook shows from where on it is time to read it: a limit, or the limit as a line.
    assert panel.runbook is None or panel.limits or any("replica_limit" in query.expr for query in panel.queries)
    if panel.runbook is not None:
        assert (ROOT / "docs" / "runbooks" / f"{panel.runbook}.md").is_file()


def test_every_alert_has_a_panel_that_sends_to_its_page() -> None:
    linked = {panel.runbook for board in BOARDS for panel in board.panels()}
    assert {alert.runbook for alert in alerts(SECTION)} - linked == {"metrics-missing"}


def test_chart_dashboards_match_the_code() -> None:
    folder = ROOT / "helm" / "hybridserve" / "files" / "dashboards"
    made = {f"{board.slug}.json": dashboard(board) for board in BOARDS}
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == made, "run `make telemetry-files`"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)
def test_grafana_gets_variables_links_units_and_places(board: Dashboard) -> None:
    tree = json.loads(dashboard(board))
    assert [one["name"] for one in tree["templating"]["list"]] == ["datasource", "namespace", "model", "replica"]
    assert {one["title"] for one in tree["links"]} == {"Dashboards", "Runbooks"}
    shown = [panel for panel in tree["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in shown] == [panel.title for panel in board.panels()]
    assert len({panel["id"] for panel in tree["panels"]}) == len(tree["panels"])
    lines: dict[int, int] = {}
    for panel in shown:
        lines[panel["gridPos"]["y"]] = lines.get(panel["gridPos"]["y"], 0) + panel["gridPos"]["w"]
    assert set(lines.values()) == {24}, "panels leave a gap"
    for panel in shown:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert panel["description"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for link in panel.get("links", []):
            assert link["url"].startswith(RUNBOOKS)


def test_the_command_writes_both_formats(tmp_path: Path) -> None:
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


def test_without_the_sdk_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_sdk(name: str, *rest: Any) -> Any:
        if name.startswith("grafana_foundation_sdk"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_sdk)
    with pytest.raises(EnvironmentFault, match="pip install grafana-foundation-sdk"):
        dashboard(BOARDS[0])
