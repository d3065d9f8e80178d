"""Compare the planner with results.json of measure.py. Runs where hybridserve is installed; needs no GPU.

    python compare.py FIRST/results.json [SECOND/results.json] [--gpu h100] [--json]

Integers (blocks, block size, tokens) are planned from the measured bytes of the pool and must be equal. Bytes are
planned as for a machine that was never measured and are shown beside the measured ones, with the planner's band.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

GIB = 1 << 30
HERE = Path(__file__).resolve().parent
MODELS = {"nano9b": "nemotron-nano-9b-v2", "qwen8b": "qwen3-8b"}


def plan_command(step: dict[str, Any], gpu: str, kv_bytes: int | None) -> list[str]:
    """Arguments of `hybridserve` that plan the settings of this step, from the pool's measured bytes where given."""
    found, folder = step["facts"], Path(step["start"]["settings"]["model"]).name
    cache, scheduler, memory = found["cache"], found["scheduler"], found["memory"]
    words = ["plan", MODELS.get(folder, str(HERE / "models" / folder)), "--gpu", gpu, "--json"]
    words += ["--context", str(found["model"]["max_model_len"]), "--concurrency", str(scheduler["max_num_seqs"])]
    words += ["--batched-tokens", str(scheduler["max_num_batched_tokens"])]
    words += ["--utilization", str(cache["gpu_memory_utilization"])]
    words += ["--prefix-caching" if cache["enable_prefix_caching"] else "--no-prefix-caching"]
    if "at_start" in memory:
        words += ["--memory-gib", str(memory["at_start"]["total_memory"] / GIB)]
    if cache["cache_dtype"] != "auto":
        words += ["--kv-cache-dtype", cache["cache_dtype"]]
    if folder.startswith("nano"):
        words += ["--ssm-dtype", cache["mamba_ssm_cache_dtype"]]
    if kv_bytes:
        words += ["--kv-bytes", str(kv_bytes)]
    return words


def planned(words: list[str]) -> dict[str, Any]:
    """What `hybridserve` with these arguments plans, or `{"refused": reason}`."""
    command = [sys.executable, "-c", "from hybridserve.cli import main; main()", *words]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        plan = dict(json.loads(run.stdout))
    except json.JSONDecodeError:
        return {"refused": run.stderr.strip()}
    return {"refused": f"{plan['where']}: {plan['what']}"} if "error" in plan else plan


def compare_step(step: dict[str, Any], gpu: str) -> dict[str, Any]:
    """Measured beside planned: `integers` that must be equal, `bytes` that may differ, and the pool's `band`."""
    found, memory = step["facts"], step["facts"]["memory"]
    profiled = memory.get("available_kv_cache_memory_bytes")
    pool = profiled or found["cache"]["kv_cache_memory_bytes"]
    known, estimate = (planned(plan_command(step, gpu, size)) for size in (pool, None if profiled else pool))
    row: dict[str, Any] = {"step": step["step"], "attempt": step["start"]["attempt"]}
    if "torch_compile_s" in step:
        row["torch_compile_s"] = step["torch_compile_s"]
    if "refused" in known:
        return {**row, "refused": known["refused"]}
    # The plan gives each capacity for the low end, the middle and the high end of its band; here all three are equal.
    capacity = known["capacity"]
    row["integers"] = {
        "blocks": (found["pool"]["num_blocks"], capacity["num_blocks"][1]),
        "block size": (found["cache"]["block_size"], known["cache"]["block_size"]),
        "tokens": (found["cache"].get("kv_cache_size_tokens"), capacity["printed_tokens"][1]),
    }
    if profiled and "refused" not in estimate:
        graphs, weights = memory.get("cudagraph_memory_estimate"), memory.get("model_memory_usage")
        used, peak = memory.get("total_consumed"), memory.get("peak_activation_memory")
        plan = estimate["memory"]
        row["bytes"] = {
            "weights": (weights, plan["weights"]),
            "runtime": (used - weights if used and weights else None, plan["runtime"]),
            "activation": (peak - (graphs or 0) if peak is not None else None, plan["activation"]),
            "graphs": (graphs, plan["graphs"]),
            "pool": (profiled, plan["pool"]),
        }
        row["band"] = plan["band"]
        row["in_band"] = abs(plan["pool"] - profiled) <= plan["band"]
    return row


def throughput(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Output tokens a second of each workload, and the hybrid's ratio to the transformer."""
    rates = {
        (step["step"].partition("-")[0], row["isl"], row["osl"]): row
        for step in steps
        for row in step.get("workloads", [])
        # With preempted requests the step is not that of a batch which fits.
        if not row["decode"]["preempted"]
    }
    table = []
    for (model, isl, osl), row in rates.items():
        other = rates.get(("qwen", isl, osl)) if model == "nano" else None
        ratio = row["output_tokens_per_s"] / other["output_tokens_per_s"] if other else None
        table.append(
            {
                "model": model,
                "input": isl,
                "output": osl,
                "output_tokens_per_s": row["output_tokens_per_s"],
                "sequences": row["decode"]["running"],
                "step_ms": row["decode"]["step_ms_mean"],
                "prefill_tokens_per_s": row["prefill_tokens_per_s"],
                "ratio_to_qwen": round(ratio, 2) if ratio else None,
            }
        )
    return table


def at_batches(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Output tokens a second at fixed numbers of sequences of a workload's mean length, and the ratio at equal batch.

    The formula is that of `steps.workload`, with the prefill rate of the workload's own input length.
    """
    speeds = [(step["step"].partition("-")[0], step) for step in steps if step["step"].endswith("-speed")]
    prefill = {(model, row["length"]): row["tokens_per_s"] for model, step in speeds for row in step.get("prefill", [])}
    lengths = {(row["isl"], row["osl"]) for _, step in speeds for row in step.get("workloads", [])}
    table = []
    for model, step in speeds:
        for point in step.get("points", []):
            for isl, osl in sorted(lengths):
                if point["mean_length"] != isl + osl // 2 or (model, isl) not in prefill:
                    continue
                seconds = isl / prefill[model, isl] + osl * point["step_ms_mean"] / 1e3 / point["running"]
                table.append({"model": model, "input": isl, "output": osl, "sequences": point["running"],
                              "output_tokens_per_s": round(osl / seconds, 1)})  # fmt: skip
    qwen = {(row["input"], row["sequences"]): row["output_tokens_per_s"] for row in table if row["model"] == "qwen"}
    for row in table:
        if row["model"] == "nano" and (rate := qwen.get((row["input"], row["sequences"]))):
            row["ratio_to_qwen"] = round(row["output_tokens_per_s"] / rate, 2)
    return table


def compared(steps: list[dict[str, Any]], gpu: str) -> dict[str, Any]:
    """Everything that the results and the planner say about each other."""
    return {
        "capacity": [compare_step(step, gpu) for step in steps if "facts" in step],
        "refusals": [
            {"step": step["step"], "engine": reason}
            for step in steps
            if "facts" not in step and (reason := step.get("refused", step.get("error")))
        ],
        "admission": [
            {"step": step["step"], **{key: point[key] for key in ("length", "fit", "asked", "running")}}
            for step in steps
            if "fit" in (step.get("points") or [{}])[0]
            for point in step["points"]
        ],
        "throughput": throughput(steps),
        "at_batches": at_batches(steps),
        "turns": [
            {"step": step["step"], **{key: step["turns"][-1][key] for key in ("turn", "prompt", "ttft_s")}}
            for step in steps
            if step.get("turns")
        ],
    }


def different(report: dict[str, Any]) -> list[str]:
    """Integers of the plan that are not the engine's, as `step: field measured, planned`."""
    return [
        f"{row['step']}: {field} {measured}, planned {plan}"
        for row in report["capacity"]
        for field, (measured, plan) in row.get("integers", {}).items()
        if measured is not None and measured != plan
    ]


def show(report: dict[str, Any]) -> None:
    """Print the report as text."""
    for row in report["capacity"]:
        compiled = f", torch.compile {row['torch_compile_s']} s" if "torch_compile_s" in row else ""
        print(f"{row['step']} (attempt {row['attempt']}{compiled})")
        if "refused" in row:
            print(f"  the planner refuses: {row['refused']}")
        for field, (measured, plan) in row.get("integers", {}).items():
            print(f"  {field:12s} {measured!s:>12s} {plan!s:>12s} {'equal' if measured == plan else 'DIFFERENT'}")
        for field, (measured, plan) in row.get("bytes", {}).items():
            seen = "-" if measured is None else f"{measured / GIB:.3f}"
            off = f"{(plan - measured) / measured * 100:+.1f} %" if measured else ""
            print(f"  {field:12s} {seen:>12s} {plan / GIB:12.3f} GiB {off}")
        if "band" in row:
            print(f"  band of the pool: {row['band'] / GIB:.3f} GiB, {'inside' if row['in_band'] else 'OUTSIDE'}")
    for key in ("refusals", "admission", "throughput", "at_batches", "turns"):
        for row in report[key]:
            print(f"{key}: " + ", ".join(f"{name} {value}" for name, value in row.items() if value is not None))


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 where an integer of the plan is not the engine's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="results.json of one or more runs")
    parser.add_argument("--gpu", default="h100", help="catalog id of the card")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    asked = parser.parse_args(argv)
    steps = [step for path in asked.results for step in json.loads(path.read_text())["steps"]]
    report = compared(steps, asked.gpu)
    print(json.dumps(report, indent=1)) if asked.json else show(report)
    return 1 if different(report) else 0


if __name__ == "__main__":
    sys.exit(main())
