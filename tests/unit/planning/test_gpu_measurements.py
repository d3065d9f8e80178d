"""The planner and the simulator against what vLLM 0.29 did on an H200 (benchmarks/gpu/results)."""

from __future__ import annotations

import json
import re
import sys
from datetime import date
from pathlib import Path

import pytest

from hybridserve.cli import main
from hybridserve.planning.cache.reuse import STEP, CacheGrid, chain
from hybridserve.planning.cache.reuse_model import replay
from hybridserve.planning.cache.reuse_trace import TracedRequest
from hybridserve.simulator.service_times import BUILT_IN

KIT = Path(__file__).parents[3] / "benchmarks" / "gpu"
RESULTS = KIT / "results"
STEPS = json.loads((RESULTS / "h200-2026-11-27.json").read_text())["steps"]
STARTED = [step for step in STEPS if "facts" in step]
MEASURED_ON = date(2026, 11, 27)


@pytest.fixture(scope="module", autouse=True)
def kit():
    sys.path.insert(0, str(KIT))
    yield
    sys.path.remove(str(KIT))


def planned(capsys, words: list[str]) -> dict:
    with pytest.raises(SystemExit):
        main(words)
    return json.loads(capsys.readouterr().out)


def name(step: dict) -> str:
    return f"{step['run']}-{step['step']}"


@pytest.mark.parametrize("step", STARTED, ids=name)
def test_the_integers_are_those_of_the_engine(step, capsys):
    from compare import plan_command

    cache = step["facts"]["cache"]
    pool = step["facts"]["memory"].get("available_kv_cache_memory_bytes") or cache["kv_cache_memory_bytes"]
    plan = planned(capsys, plan_command(step, "h200", pool))
    assert plan["cache"]["block_size"] == cache["block_size"]
    assert plan["capacity"]["num_blocks"][1] == step["facts"]["pool"]["num_blocks"]
    assert plan["capacity"]["printed_tokens"][1] == cache["kv_cache_size_tokens"]
    assert plan["capacity"]["printed_concurrency"][1] == pytest.approx(cache["kv_cache_max_concurrency"], abs=0.005)


@pytest.mark.parametrize("step", [step for step in STARTED if "a10g" not in step["step"]], ids=name)
def test_the_pool_and_its_parts_are_inside_the_band(step, capsys):
    from compare import plan_command

    memory = step["facts"]["memory"]
    plan = planned(capsys, plan_command(step, "h200", None))["memory"]
    assert abs(plan["pool"] - memory["available_kv_cache_memory_bytes"]) <= plan["band"]
    assert plan["weights"] == pytest.approx(memory["model_memory_usage"], rel=0.002)
    activation = memory["peak_activation_memory"] - memory["cudagraph_memory_estimate"]
    assert plan["activation"] == pytest.approx(activation, rel=0.04)
    assert plan["graphs"] == pytest.approx(memory["cudagraph_memory_estimate"], rel=0.21)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("nano-refused", ["nemotron-nano-9b-v2", "--context", "131072", "--kv-bytes", str(1 << 30)]),
        ("qwen-a10g", ["qwen3-8b", "--context", "32768", "--kv-bytes", "4702989189"]),
    ],
)
def test_a_refusal_has_the_numbers_of_the_engine(step, words, capsys):
    engine = next(found.get("refused") or found["error"] for found in STEPS if found["step"] == step)
    numbers = r"\((\d+)\), \(?([\d.]+) GiB .* memory \(([\d.]+) GiB\).* model length is (\d+)"
    refusal = planned(capsys, ["plan", *words, "--gpu", "h200", "--json"])["what"]
    ours, theirs = (tuple(map(float, re.search(numbers, text).groups())) for text in (refusal, engine))
    assert ours == theirs


def test_the_calibration_files_are_those_of_the_measurement(tmp_path):
    import fit

    fit.main(
        [str(RESULTS / "h200-2026-11-27.json"), "--gpu", "h200", "--date", str(MEASURED_ON), "--out", str(tmp_path)]
    )
    assert (tmp_path / "pools-h200.yaml").read_text() == (RESULTS / "pools-h200.yaml").read_text()
    for calibration in ("nano-9b-h200", "qwen3-8b-h200"):
        committed = (BUILT_IN / f"{calibration}.yaml").read_text()
        assert (tmp_path / f"{calibration}.yaml").read_text() == committed
        assert "kind: measured" in committed


def test_a_plan_takes_the_measured_pool(capsys):
    words = ["plan", "nemotron-nano-9b-v2", "--gpu", "h200", "--context", "131072", "--concurrency", "184"]
    words += ["--batched-tokens", "9368", "--json", "--calibration", str(RESULTS / "pools-h200.yaml")]
    plan = planned(capsys, words)
    assert (plan["confidence"], plan["memory"]["pool"]) == ("known", 116_648_561_767)


def test_the_rates_are_those_of_the_evidence_page():
    from compare import at_batches, throughput

    rates = {(row["model"], row["input"], row["sequences"]): row["output_tokens_per_s"] for row in at_batches(STEPS)}
    page = (KIT.parents[1] / "docs" / "evidence" / "gpu.md").read_text()
    for key, shown in ((("nano", 8192, 8), "1,178"), (("qwen", 8192, 1), "171"), (("nano", 1024, 426), "6,313")):
        assert f"{rates[key]:,.0f}" == shown
        assert shown in page
    ratio = next(row["ratio_to_qwen"] for row in throughput(STEPS) if row["ratio_to_qwen"])
    assert f"**{ratio}**" in page


@pytest.mark.parametrize(("step", "unit"), [("nano-turns", 1312), ("nano-turns-fine", 32)])
def test_the_page_has_what_the_eighth_turn_computes(step, unit):
    found = next(found for found in STEPS if found["step"] == step)
    pool, budget = found["facts"]["pool"], found["start"]["settings"]["max_num_batched_tokens"]
    grid = CacheGrid(found["facts"]["cache"]["block_size"], unit, 1312, budget, 1, 7, pool["num_blocks"] - 1)
    history = range(found["turns"][-1]["prompt"])
    trace = []
    for turn in found["turns"]:
        tokens = [*history[: turn["prompt"]], *[-1] * 8]
        trace.append(TracedRequest(STEP, chain(tokens), turn["prompt"], len(tokens), None))
    hit = replay(trace, grid).hits[-1]
    speed = next(found for found in STEPS if found["step"] == "nano-speed")
    rate = next(row["tokens_per_s"] for row in speed["prefill"] if row["length"] == 8192)
    computed = len(history) - hit
    page = (KIT.parents[1] / "docs" / "evidence" / "gpu.md").read_text()
    assert f"| {hit:,} | {computed:,} | {computed / rate * 1000:.0f} ms |" in page
    assert f"| 0 | {len(history):,} | {len(history) / rate * 1000:.0f} ms |" in page
