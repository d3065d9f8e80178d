"""The `hybridserve simulate` command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridserve.cli.app import main

TRACE = "time,prompt,output\n" + "".join(f"{index * 0.7:.1f},200,60\n" for index in range(300))


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return str(file)


def run(*argv: str) -> int:
    try:
        main(["simulate", *argv])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_json_of_two_policies(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trace", trace, "--policy", "hybridserve,fixed", "--tune", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in result["trials"]] == ["hybridserve", "fixed"]
    assert result["requests"] == 300
    assert result["kind"] == "bound"
    assert 0 <= result["trials"][0]["attainment"] <= 1


def test_costs_at_a_price(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--trace", trace, "--policy", "fixed", "--tune", "--price", "2", "--refuse-late")
    assert run(*options, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["trials"]
    assert row["cost"] == pytest.approx(2 * row["replica_hours"])
    assert row["cost_per_million_good_tokens"] == pytest.approx(row["cost"] / row["good_tokens"] * 1e6)
    assert row["good_tokens"] == 300 * 60
    assert run(*options) == 0
    assert {"cost", "refused"} <= set(capsys.readouterr().out.replace("┃", " ").split())


def test_table_marks_bounds(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--trace", trace, "--policy", "hybridserve") == 0
    out = capsys.readouterr().out
    assert "hybridserve" in out
    assert "bounds from the data sheet" in out


def test_chart_is_drawn(trace: str, tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    assert run("--trace", trace, "--policy", "hybridserve", "--chart", str(chart), "--json") == 0
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (["--workload", "nonsense"], "--workload"),
        (["--policy", "nonsense"], "--policy"),
        (["--calibration", "nonsense"], "--calibration"),
        (["--trace", "/no/such.csv"], "--trace"),
        (["--min", "5", "--max", "2"], "--min/--max"),
        (["--start-up", "0"], "--start-up"),
        (["--scale", "0"], "--scale"),
        (["--warm-up", "1e9"], "--warm-up"),
        (["--price", "-1"], "--price"),
    ],
)
def test_invalid_options_are_refused(flags: list[str], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = [] if "--workload" in flags or "--trace" in flags else ["--workload", "nights"]
    assert run(*base, *flags, "--json") == 2
    assert json.loads(capsys.readouterr().out)["where"] == where
