"""Rules and alerts: promtool evaluates cases that fire and that do not; the chart has the default rules."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rule_cases import CASES, WHO, Case, latency, of_release
from typer.testing import CliRunner

from hybridserve.cli.app import app
from hybridserve.observability.rules.alerts import Alert, alerts, without_templates
from hybridserve.observability.rules.files import RECORDINGS, rule_files, rule_groups
from hybridserve.observability.rules.slo import objectives
from hybridserve.settings.telemetry import TelemetrySection

ROOT = Path(__file__).resolve().parents[3]
ALERTS = alerts(TelemetrySection())


def run(promtool: Path, folder: Path, case: Case, section: TelemetrySection) -> str:
    """Output of promtool for this case; empty if it passes. Only the rules that the case needs are evaluated."""
    every = "5m" if case.at == "1d" else "1m"
    return evaluate(promtool, folder, rules_of({case.alert}, section), [promtool_test(case)], every)


def rules_of(names: set[str], section: TelemetrySection) -> list[dict[str, Any]]:
    """The groups with these alerts and the recordings of their objectives only."""
    groups = [group for groups in rule_groups(section).values() for group in groups]
    slos = [slo.name for slo in objectives(section) if slo.alert in names]
    for group in groups:
        group["rules"] = [
            rule
            for rule in group["rules"]
            if rule.get("alert") in names or rule.get("labels", {}).get("sloth_slo") in slos
        ]
    return groups


def evaluate(
    promtool: Path, folder: Path, groups: list[dict[str, Any]], tests: list[dict[str, Any]], every: str = "1m"
) -> str:
    """Output of promtool; empty if all tests pass."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    file = {"rule_files": ["rules.yaml"], "evaluation_interval": every, "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(file))
    done = subprocess.run([promtool, "test", "rules", "tests.yaml"], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def promtool_test(case: Case) -> dict[str, Any]:
    """One case in promtool's form: how many series of the alert fire, by severity.

    Only series with every label that the alert's texts use count.
    """
    texts = " ".join(alert.summary + alert.description for alert in ALERTS if alert.name == case.alert)
    named = "".join(f',{label}!=""' for label in sorted(set(re.findall(r"\$labels\.(\w+)", texts))))
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires else 'inactive'}")
def test_alert_fires_only_when_expected(promtool: Path, tmp_path: Path, case: Case) -> None:
    assert run(promtool, tmp_path, case, TelemetrySection()) == ""


def test_every_alert_has_firing_and_inactive_cases() -> None:
    firing = {(case.alert, severity) for case in CASES for severity in case.fires}
    assert firing == {(alert.name, alert.severity) for alert in ALERTS}
    assert {case.alert for case in CASES if not case.fires} == {alert.name for alert in ALERTS}


OF_RELEASES = [case for case in CASES if case.fires and case.at == "1h" and case.alert != "HybridServeMetricsMissing"]
BURNS = [case for case in OF_RELEASES if "BudgetBurn" in case.alert]


@pytest.mark.parametrize("firing", [BURNS[:1], [case for case in OF_RELEASES if case not in BURNS]], ids=len)
def test_two_releases_share_the_alerts(promtool: Path, tmp_path: Path, firing: list[Case]) -> None:
    """Each alert fires in release a, and not in release b of the same model and namespace."""
    quiet = {case.alert: case.series for case in CASES if not case.fires and case.at == "1h"}
    tests = []
    for case in firing:
        series = of_release(case.series, "a") | of_release(quiet.get(case.alert, {}), "b")
        test = promtool_test(replace(case, series=series))
        (check,) = test["promql_expr_test"]
        check["expr"] = check["expr"].replace("(severity)", "(severity, release)")
        for sample in check["exp_samples"]:
            sample["labels"] = sample["labels"].replace("}", ', release="a"}')
        tests.append(test)
    assert evaluate(promtool, tmp_path, rules_of({case.alert for case in firing}, TelemetrySection()), tests) == ""


def test_two_releases_are_recorded_apart(promtool: Path, tmp_path: Path) -> None:
    metric, recorded = "hybridserve_requests_admitted_total", "hybridserve:requests_admitted:rate5m"
    labels = {rate: f'namespace="n",release="r{rate}",model="m"' for rate in (1, 2)}
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f'{metric}{{{one},replica="{rate}"}}', "values": f"0+{60 * rate}x60"}
            for rate, one in labels.items()
        ],
        "promql_expr_test": [
            {
                "expr": recorded,
                "eval_time": "1h",
                "exp_samples": [{"labels": f"{recorded}{{{one}}}", "value": rate} for rate, one in labels.items()],
            }
        ],
    }
    groups = [{"name": "recordings", "rules": [{"record": recorded, "expr": RECORDINGS[recorded]}]}]
    assert evaluate(promtool, tmp_path, groups, [test]) == ""


def test_wrong_case_is_reported(promtool: Path, tmp_path: Path) -> None:
    wrong = Case("HybridServePlanDrift", (), {f"hybridserve_plan_mismatched_fields{{{WHO}}}": "2x60"})
    assert "HybridServePlanDrift" in run(promtool, tmp_path, wrong, TelemetrySection())


def test_rules_use_the_targets_of_the_settings(promtool: Path, tmp_path: Path) -> None:
    strict = TelemetrySection(slo_ttft_s=0.5, slo_ttft=0.999)
    slow = latency("vllm:time_to_first_token_seconds", "0.5", 4, 60)
    case = Case("HybridServeTTFTBudgetBurn", ("page", "ticket"), slow)
    assert run(promtool, tmp_path, case, strict) == ""


def test_page_can_fire_at_every_objective() -> None:
    """The error budget times the burn factor must be below 1: otherwise no number of bad requests would be enough."""
    section = TelemetrySection(slo_ttft=0.5, slo_inter_token=0.5, slo_availability=0.5, slo_attainment=0.5)
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
def test_runbook_has_all_sections_and_names_its_alerts(alert: str) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{alert}.md").read_text()
    for heading in ("## What it means", "## Look at", "## Do"):
        assert heading in page, heading
    assert all(same.name in page for same in ALERTS if same.runbook == alert)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_only_alerts_over_metrics_of_ray_name_ray(alert: Alert) -> None:
    """The other metrics are exported by pods without Ray, too, which the chart's autoscaler scales."""
    if not re.search("ray_serve|kuberay", alert.expr):
        assert "Ray" not in f"{alert.summary} {alert.description}"


def test_steps_of_a_runbook_that_need_ray_say_so() -> None:
    pages = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
    steps = [step for page in pages for step in re.split(r"\n(?=- |\| )", page.read_text())]
    need_ray = [step for step in steps if "HEAD_POD" in step or "queue_length" in step]
    assert need_ray
    assert [step for step in need_ray if "rayservice" not in step] == []


def test_every_runbook_belongs_to_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert pages - {"README"} == {alert.runbook for alert in ALERTS}


def test_export_writes_files_and_list_prints_alerts(tmp_path: Path) -> None:
    run_cli = CliRunner().invoke
    done = run_cli(app, ["alerts", "export", "--out", str(tmp_path / "new"), "--json"])
    assert done.exit_code == 0, done.output
    assert sorted(Path(path).name for path in json.loads(done.stdout)["files"]) == ["alerts.yaml", "recording.yaml"]
    listed = json.loads(run_cli(app, ["alerts", "list", "--json"]).stdout)
    assert {alert["name"] for alert in listed} == {alert.name for alert in ALERTS}
    assert all(alert["runbook_url"].endswith(".md") for alert in listed)


def test_list_shows_runbook_and_no_template() -> None:
    done = CliRunner().invoke(app, ["alerts", "list"])
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("HybridServe")}
    for alert in ALERTS:
        assert f" {alert.runbook} " in lines[alert.name]
    assert "{{" not in done.stdout
    assert "REPLICA: VALUE compliance checks no longer pass" in lines["HybridServeComplianceLapsed"]
    assert " page, ticket  immediately " in lines["HybridServeAttainmentBudgetBurn"]
    texts = {without_templates(alert.description, lambda _: "N") for alert in ALERTS}
    assert "N of guard checks return an error; those requests are rejected with 503." in texts
