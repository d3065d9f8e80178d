"""The generated tables of the documentation are up to date, and every dashboard has a picture."""

from __future__ import annotations

import ast
import html
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hybridserve.errors import HybridServeError
from hybridserve.gateway.auth.routes import _TABLE as ROUTES
from hybridserve.observability.dashboards import dashboards
from hybridserve.observability.rules.alerts import alerts
from hybridserve.settings.telemetry import TelemetrySection

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    return _script("reference_docs")


def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_up_to_date(script: Any) -> None:
    for page in script.PAGES:
        text = page.read_text()
        assert "<!-- table: " in text
        assert script.filled(text) == text, f"{page.name}: run `make reference-docs`"


def test_alert_table_shows_when_each_alert_fires(script: Any) -> None:
    rows = [line.strip("| ").split(" | ") for line in script.alert_table().splitlines()[2:]]
    shown = {(row[0].partition("]")[0].lstrip("["), row[2]) for row in rows}
    expected = {
        (alert.name, "immediately" if alert.hold == "0m" else alert.hold) for alert in alerts(TelemetrySection())
    }
    assert shown == expected
    assert ("HybridServeHighPreemptionRate", "10m") in shown


def test_errors_page_has_every_code_and_class() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    rows = re.findall(r"^\| [\d, ]+ \| (.*?) \|", page, re.MULTILINE)
    calls = [
        node.args[1]
        for path in (ROOT / "src/hybridserve/gateway").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "APIError"
    ]
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row)} == {
        code.value for code in calls if isinstance(code, ast.Constant)
    }
    assert {kind.__name__ for kind in HybridServeError.__subclasses__()} >= set(re.findall(r"^\| `(\w+)`", page, re.M))


def test_api_page_has_every_route() -> None:
    page = (ROOT / "docs/reference/http-api.md").read_text()
    assert {path for _, path in ROUTES if f"{path}`" not in page} == set()


def test_picture_of_a_plan_shows_its_numbers() -> None:
    picture = _script("plan_picture")
    shown = re.search(r"<dc:description>(.*?)</dc:description>", picture.PICTURE.read_text(), re.DOTALL)
    assert shown is not None
    assert json.loads(html.unescape(shown[1])) == picture.figures(), "run `make plan-picture`"


def test_every_dashboard_has_a_small_picture() -> None:
    pictures = {path.stem: path for path in (ROOT / "docs" / "dashboards").glob("*.png")}
    assert set(pictures) == {board.slug for board in dashboards(TelemetrySection())}
    for picture in pictures.values():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 300_000
