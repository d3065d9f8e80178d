"""Load tests of the real service: reasoning, lengths, and an operating curve for the simulator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.stack_service import Service

pytestmark = pytest.mark.stack
COMMAND = str(Path(sys.executable).parent / "hybridserve")
# Server and client share the machine here, so the client may be slow.
CLIENT = {"lag_floor_s": 1.0}


def hybridserve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120)


def test_reasoning_on_off_and_budget(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "reasoning.json"
    kinds = [{"name": "on", "reasoning": "on"}, {"name": "off", "reasoning": "off"}, {"name": "budget", "budget": 8}]
    base = {"type": "chat", "questions": ["What is 17 plus 25?", "Who are you?"], "max_tokens": 96}
    mix = [{**base, **kind} for kind in kinds]
    curve = {"shape": "constant", "level": 3, "seconds": 5}
    path.write_text(
        json.dumps({"about": "t", "mode": "closed", "curve": curve, "warm_up": 1, "mix": mix, "client": CLIENT})
    )
    ran = hybridserve("loadtest", str(path), "--url", service.url, "--json", "--out", str(tmp_path / "out"))
    found = json.loads(ran.stdout)
    parts = found["by_kind"]
    assert ran.returncode == 0, (found["summary"]["outcomes"], found["client"])
    assert parts["off"]["reasoning_tokens"] == 0
    assert parts["on"]["reasoning_tokens"] > 0
    longest = parts["budget"]["reasoning_tokens"] / parts["budget"]["completed"]
    assert longest <= 16, "reasoning tokens exceed the budget"
    assert found["summary"]["usage_share"] == 1.0


def test_exact_lengths(service: Service, tmp_path: Path) -> None:
    flags = ["--url", service.url, "--json", "--out", str(tmp_path / "out"), "--level", "2", "--seconds", "3"]
    refused = hybridserve("loadtest", "grid", *flags)
    assert (refused.returncode, "tokens of context" in refused.stdout) == (2, True)
    ran = hybridserve("loadtest", "grid", *flags, "--scale", "0.01")
    found = json.loads(ran.stdout)
    assert set(found["summary"]["outcomes"]) == {"ok"}
    for kind in found["by_kind"].values():
        assert kind["cached_tokens"] is None, "reported without --enable-prompt-tokens-details"
    kind = found["by_kind"]["8k/1k"]
    assert (kind["prompt_tokens"], kind["output_tokens"]) == (82 * kind["completed"], 10 * kind["completed"])


def test_simulator_and_plan_read_a_sweep(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    mix = [
        {"name": f"{prompt}/{output}", "type": "tokens", "prompt": prompt, "output": output}
        for prompt, output in ((32, 32), (512, 32))
    ]
    curve = {"shape": "constant", "level": 1, "seconds": 3}
    path.write_text(
        json.dumps({"about": "t", "mode": "closed", "curve": curve, "warm_up": 1, "mix": mix, "client": CLIENT})
    )
    out = tmp_path / "out"
    flags = ["--url", service.url, "--sweep", "concurrency", "--levels", "1,4", "--start-up", "30"]
    swept = hybridserve("loadtest", str(path), *flags, "--json", "--out", str(out))
    assert swept.returncode == 0, swept.stdout + swept.stderr
    curve_file = json.loads((out / "operating-curve.json").read_text())
    assert len(curve_file["points"]) == 4
    assert curve_file["step_times"]["fixed_s"] + curve_file["step_times"]["per_sequence_s"] > 0
    simulated = hybridserve(
        "simulate", "--calibration", str(out / "calibration.yaml"), "--policy", "fixed", "--scale", "0.1", "--json"
    )
    assert simulated.returncode == 0, simulated.stdout + simulated.stderr
    assert json.loads(simulated.stdout)["kind"] == "measured"
    planned = hybridserve("plan", "--measured", str(out / "operating-curve.json"), "--json")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert [point["running"] for point in json.loads(planned.stdout)["points"]] == [1, 4, 1, 4]
    shown = hybridserve("config", "show", "-c", str(out / "scaling.yaml"), "--json")
    assert shown.returncode == 0, shown.stderr
    rate = curve_file["step_times"]["per_prompt_token_s"]
    taken = json.loads(shown.stdout)["scaling"]["prefill_tokens_per_s"]
    assert taken == (pytest.approx(1 / rate, rel=0.001) if rate else None), "the setting differs from the measurement"
