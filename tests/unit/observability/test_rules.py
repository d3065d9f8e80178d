"""Rules and alerts: promtool runs each alert both ways; the chart has those of the default settings."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from rule_cases import CASES, WHO, Case, latency
from typer.testing import CliRunner

from hybridserve.cli.app import app
from hybridserve.observability.rules.alerts import alerts
from hybridserve.observability.rules.files import rule_files, rule_groups
from hybridserve.observability.rules.slo import objectives
from hybridserve.settings.telemetry import TelemetrySection

ROOT = Path(__file__).resolve().parents[3]
ALERTS = alerts(TelemetrySection())


def run(promtool: Path, folder: Path, case: Case, section: TelemetrySection) -> str:
    """What promtool says of this case; empty when it holds. Only the rules that the case needs are evaluated."""
    groups = [group for groups in rule_groups(section).values() for group in groups]
    slos = [one.name for one in objectives(section) if one.alert == case.alert]
    for group in groups:
        group["rules"] = [
            rule
            for rule in group["rules"]
            if rule.get("alert") == case.alert or rule.get("labels", {}).get("sloth_slo") in slos
        ]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    every = "5m" if case.at == "1d" else "1m"
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": every, "tests": [promtool_test(case)]}
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run([promtool, "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def promtool_test(case: Case) -> dict[str, Any]:
    """One case in promtool's form: how many series of the alert fire, by severity.

    Only those count that have every label which the alert's words name.
    """
    words = " ".join(one.summary + one.description for one in ALERTS if one.name == case.alert)
    named = "".join(f',{label}!=""' for label in sorted(set(re.findall(r"\$labels\.(\w+)", words))))
    return {
        "interval": "2m" if case.at == "1d" else "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f'count by (severity) (ALERTS{{alertname="{case.alert}",alertstate="firing"{named}}})',
                "eval_time": case.at,
                "exp_samples": [{"labels": f'{{severity="{severity}"}}', "value": 1} for severity in case.fires],
            }
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires else 'silent'}")
def test_each_alert_fires_when_it_must_and_only_then(promtool: Path, tmp_path: Path, case: Case) -> None:
    assert run(promtool, tmp_path, case, TelemetrySection()) == ""


def test_every_alert_and_severity_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires, silent = defaultdict(set), set()
    for case in CASES:
        fires[case.alert] |= set(case.fires)
        if not case.fires:
            silent.add(case.alert)
    for alert in ALERTS:
        assert alert.severity in fires[alert.name], alert.name
    assert silent == {alert.name for alert in ALERTS}


def test_a_case_that_is_wrong_is_found(promtool: Path, tmp_path: Path) -> None:
    wrong = Case("HybridServePlanDrift", (), {f"hybridserve_plan_mismatched_fields{{{WHO}}}": "2x60"})
    assert "HybridServePlanDrift" in run(promtool, tmp_path, wrong, TelemetrySection())


def test_targets_of_the_settings_reach_the_rules(promtool: Path, tmp_path: Path) -> None:
    strict = TelemetrySection(slo_ttft_s=0.5, slo_ttft=0.999)
    slow = latency("vllm:time_to_first_token_seconds", "0.5", 4, 60)
    case = Case("HybridServeTTFTBudgetBurn", ("page", "ticket"), slow)
    assert run(promtool, tmp_path, case, strict) == ""


def test_a_page_can_fire_at_every_objective() -> None:
    """A budget times the burn factor must stay under one: above, no number of bad requests would be enough."""
    section = TelemetrySection(slo_ttft=0.5, slo_inter_token=0.5, slo_availability=0.5, slo_goodput=0.5)
    for alert in alerts(section)[: 2 * len(objectives(section))]:
        thresholds = [float(part.split(" ")[0].rstrip(")")) for part in alert.expr.split("}) > ")[1:]]
        assert thresholds
        assert max(thresholds) <= 0.9


def test_chart_rules_match_the_default_settings(promtool: Path) -> None:
    folder = ROOT / "helm" / "hybridserve" / "files" / "rules"
    files = rule_files(TelemetrySection())
    assert {path.name: path.read_text() for path in folder.glob("*.yaml")} == files, "run `make telemetry-files`"
    done = subprocess.run([promtool, "check", "rules", *sorted(folder.glob("*.yaml"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", sorted({alert.runbook for alert in ALERTS}))
def test_every_alert_has_a_page_that_says_what_to_look_at_and_what_to_do(alert: str) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{alert}.md").read_text()
    for heading in ("## What it means", "## Look at", "## Do"):
        assert heading in page, heading
    assert all(one.name in page for one in ALERTS if one.runbook == alert)


def test_no_page_is_left_over() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert pages - {"README"} == {alert.runbook for alert in ALERTS}


def test_the_command_writes_and_lists(tmp_path: Path) -> None:
    run_cli = CliRunner().invoke
    done = run_cli(app, ["alerts", "export", "--out", str(tmp_path / "new"), "--json"])
    assert done.exit_code == 0, done.output
    assert sorted(Path(path).name for path in json.loads(done.stdout)["files"]) == ["alerts.yaml", "recording.yaml"]
    listed = json.loads(run_cli(app, ["alerts", "list", "--json"]).stdout)
    assert {one["name"] for one in listed} == {alert.name for alert in ALERTS}
    assert all(one["runbook_url"].endswith(".md") for one in listed)
