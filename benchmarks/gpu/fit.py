"""Calibration files from results.json of measure.py, for `hybridserve plan` and `hybridserve simulate`.

    python fit.py RESULTS [RESULTS ...] --gpu h200 --date 2026-11-27 --out FOLDER

Writes FOLDER/pools-GPU.yaml (`plan --calibration`: the pool of each start, the smallest where settings ran twice) and
FOLDER/MODEL-GPU.yaml (`simulate --calibration`: the time of an engine step). Runs where hybridserve is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from compare import MODELS, plan_command, planned

from hybridserve.planning.deployment import profiled_settings
from hybridserve.planning.memory.profile import record
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.settings import load
from hybridserve.simulator.service_times import parse_service_times

SETTINGS = {
    "--context": "engine.max_model_len",
    "--concurrency": "engine.max_num_seqs",
    "--batched-tokens": "engine.max_num_batched_tokens",
    "--utilization": "engine.gpu_memory_utilization",
    "--memory-gib": "accelerator.memory_gib",
    "--ssm-dtype": "engine.mamba_ssm_cache_dtype",
}


def pools(steps: list[dict[str, Any]], gpu: str, read: date) -> str:
    """The calibration file of the planner: the pool that each start profiled."""
    smallest: dict[str, tuple[dict[str, Any], int]] = {}
    for step in steps:
        size = step.get("facts", {}).get("memory", {}).get("available_kv_cache_memory_bytes")
        if size is None:
            continue
        words = plan_command(step, gpu, None)
        flags = [f"model.id={words[1]}", f"accelerator.name={gpu}"]
        flags += [f"{SETTINGS[name]}={value}" for name, value in pairwise(words) if name in SETTINGS]
        flags.append(f"engine.enable_prefix_caching={str('--prefix-caching' in words).lower()}")
        deployment = plan_settings(load(None, flags).settings, PlanOptions()).advice.plan.deployment
        key = {"model": deployment.model, "accelerator": gpu, "settings": dict(profiled_settings(deployment))}
        name = json.dumps(key, sort_keys=True, default=str)
        smallest[name] = (key, min(size, smallest.get(name, (key, size))[1]))
    text = ""
    for key, size in smallest.values():
        text = record(text, **key, kv_bytes=size, read=read)
    return text


def step_time(steps: list[dict[str, Any]]) -> tuple[dict[str, float], float]:
    """Seconds of an engine step by its work, and the median relative error of the fit.

    Least squares of relative errors over the decode points: fixed + per sequence + per token of context. A prompt
    token's time follows from the prefill rate with full steps.
    """
    points = [point for step in steps for point in step.get("points", [])]
    points += [row["decode"] for step in steps for row in step.get("workloads", [])]
    points = [point for point in points if not point["preempted"] and not point["waiting"]]
    seconds = np.array([point["step_ms_mean"] for point in points]) / 1e3
    work = np.array([[1, point["running"], point["running"] * point["mean_length"]] for point in points])
    found = np.linalg.lstsq(work / seconds[:, None], np.ones(len(points)), rcond=None)[0]
    error = float(np.median(np.abs(work @ found / seconds - 1)))
    rates = [row["tokens_per_s"] for step in steps for row in step.get("prefill", [])]
    chunk = steps[0]["facts"]["scheduler"]["max_num_batched_tokens"]
    per_prompt = statistics.mean(1 / rate for rate in rates) - found[0] / chunk
    names = ("fixed_s", "per_sequence_s", "per_context_token_s", "per_prompt_token_s")
    return {name: float(f"{value:.4g}") for name, value in zip(names, (*found, per_prompt), strict=True)}, error


def service_times(steps: list[dict[str, Any]], gpu: str, card: str, read: date) -> str:
    """The calibration file of the simulator, with the settings that the planner chooses for the measured pool."""
    pool = steps[0]["facts"]["memory"]["available_kv_cache_memory_bytes"]
    model = Path(steps[0]["start"]["settings"]["model"]).name
    times, error = step_time(steps)
    words = ["plan", MODELS[model], "--gpu", gpu, "--kv-bytes", str(pool), "--json"]
    plan = planned(words)
    chosen, cache = plan["engine_args"], plan["cache"]
    whole = [row for step in steps for row in step.get("whole", [])]
    off = statistics.median(abs(row["from_parts_s"] / row["s"] - 1) for row in whole)
    tree = {
        "name": f"{plan['name']} on one {card}",
        "kind": "measured",
        "source": f"benchmarks/gpu, {read}, vLLM 0.29.0 in one process, dummy weights, prompts of 1k and 8k",
        "step": times,
        "engine": {
            "max_num_seqs": chosen["max_num_seqs"],
            "max_num_batched_tokens": chosen["max_num_batched_tokens"],
            "align_prefill": cache["mode"] == "align",
        },
        "cache": {
            "usable_blocks": plan["capacity"]["num_blocks"][1] - 1,
            "block_size": cache["block_size"],
            "state_blocks": cache["state_blocks_running"],
            "growing_groups": sum(group["kind"] != "state" for group in cache["groups"]),
        },
        # Not measured: the runs had no HTTP server and no weights to load.
        "request_overhead_s": 0.01,
        "start_up_s": 120,
        "error": {"ttft": round(off, 3), "inter_token": round(error, 3)},
    }
    text = yaml.safe_dump(tree, sort_keys=False, width=120)
    parse_service_times(text, model)
    return text


def main(argv: list[str] | None = None) -> int:
    """Write the files; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="results.json of one or more runs")
    parser.add_argument("--gpu", required=True, help="catalog id of the card")
    parser.add_argument("--date", type=date.fromisoformat, required=True, help="day of the measurement")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    asked = parser.parse_args(argv)
    runs = [json.loads(path.read_text()) for path in asked.results]
    steps = [step for run in runs for step in run["steps"]]
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"pools-{asked.gpu}.yaml").write_text(pools(steps, asked.gpu, asked.date))
    for short, model in (("nano", "nano-9b"), ("qwen", "qwen3-8b")):
        measured = [step for step in steps if step["step"] == f"{short}-speed" and step.get("facts")]
        if measured:
            text = service_times(measured, asked.gpu, runs[0]["about"]["device"], asked.date)
            (asked.out / f"{model}-{asked.gpu}.yaml").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
