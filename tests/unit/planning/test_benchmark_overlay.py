"""Comparison of an operating curve with a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hybridserve.cli.plan import app
from hybridserve.errors import ConfigError
from hybridserve.planning.benchmark_overlay import read_curve


def point(prompt: int, output: int, concurrency: int, rate: float, void: bool = False) -> dict[str, object]:
    summary = {"output_throughput": rate, "ttft": {"p50": 0.5}, "tpot": None}
    lengths = {"prompt_tokens": prompt, "output_tokens": output, "concurrency": concurrency}
    return {**lengths, "void": void, "summary": summary}


def curve(model: str, *points: dict[str, object]) -> str:
    return json.dumps({"model": model, "points": points})


def test_measured_points_are_compared_with_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    model = "nemotron-nano-9b-v2"
    path.write_text(curve(model, point(1024, 1024, 2, 50.0), point(1024, 1024, 512, 900.0, void=True)))
    asked = [model, "--gpu", "h100", "--concurrency", "256", "--measured", str(path)]
    ran = CliRunner().invoke(app, [*asked, "--json"])
    assert ran.exit_code == 0, ran.output
    low, high = json.loads(ran.stdout)["points"]
    assert (low["running"], low["waits"], high["waits"]) == (2, False, True)
    assert high["running"] <= 256
    assert 0 < low["share"] < 1, "a roofline is above what any engine does"
    assert low["bound_tokens_per_s"] < high["bound_tokens_per_s"]
    shown = CliRunner().invoke(app, asked).stdout
    assert shown.splitlines()[2].endswith("void")


@pytest.mark.parametrize(
    ("text", "what"),
    [("{", "not an operating curve"), ("[]", "not an operating curve"), (curve("m"), "no points"), ("{}", "'points'")],
)
def test_invalid_operating_curve_is_refused(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read_curve(text, "curve.json")


def test_curve_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    path.write_text(curve("other", point(8, 8, 1, 9.0)))
    ran = CliRunner().invoke(app, ["nemotron-nano-9b-v2", "--gpu", "h100", "--measured", str(path)])
    assert isinstance(ran.exception, ConfigError)
    assert "was measured on 'other'" in ran.exception.what
