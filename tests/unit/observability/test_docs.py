"""docs/reference/metrics.md: its tables are the code's, and every dashboard has its picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from hybridserve.observability.dashboards import dashboards
from hybridserve.settings.telemetry import TelemetrySection

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("page", ["reference/metrics.md", "runbooks/README.md"])
def test_tables_are_those_of_the_code(page: str) -> None:
    spec = importlib.util.spec_from_file_location("telemetry_docs", ROOT / "scripts" / "telemetry_docs.py")
    assert spec is not None
    assert spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    text = (ROOT / "docs" / page).read_text()
    assert "<!-- table: " in text
    assert docs.filled(text) == text, "run `make telemetry-files`"


def test_every_dashboard_has_a_picture_of_small_size() -> None:
    pictures = {path.stem: path for path in (ROOT / "docs" / "dashboards").glob("*.png")}
    assert set(pictures) == {board.slug for board in dashboards(TelemetrySection())}
    for picture in pictures.values():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 300_000
