"""Draw docs/images/plan-memory.svg, the memory of two plans on one GPU: `make plan-picture`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).resolve().parent.parent / "docs/images/plan-memory.svg"
PLANS = {"Nemotron Nano 9B v2": "nemotron-nano-9b-v2", "Qwen3 8B": "qwen3-8b"}
OPTIONS = ("--gpu", "l40s", "--prompt", "1024/4096", "--output", "512/2048", "--json")
COLORS = {
    "weights": "#4c6a92",
    "activation, graphs, runtime": "#8fa6c4",
    "states": "#c8553d",
    "keys and values": "#e8a33d",
    "free blocks": "#f3d9a4",
    "not used": "#dddddd",
}


def memory_of(plan: dict[str, Any]) -> dict[str, float]:
    """Parts of one device's memory in GiB, with as many sequences of the planned length as the plan runs."""
    memory, cache, capacity = plan["memory"], plan["cache"], plan["capacity"]
    sequences = plan["engine_args"]["max_num_seqs"]
    attention_groups = sum(group["kind"] == "attention" for group in cache["groups"])
    blocks_of_tokens = -(-capacity["request_length"] // cache["block_size"]) * attention_groups
    states = sequences * cache["state_blocks_running"] * cache["bytes_per_block"]
    tokens = sequences * blocks_of_tokens * cache["bytes_per_block"]
    parts = {
        "weights": memory["weights"],
        "activation, graphs, runtime": memory["activation"] + memory["graphs"] + memory["runtime"],
        "states": states,
        "keys and values": tokens,
        "free blocks": memory["pool"] - states - tokens,
    }
    parts["not used"] = memory["total"] - sum(parts.values())
    return {name: round(size / 2**30, 2) for name, size in parts.items()}


def figures() -> dict[str, dict[str, float]]:
    """What the picture shows: parts in GiB for each bar."""
    bars = {}
    for name, model in PLANS.items():
        code = "from hybridserve.cli import main; main()"
        command = [sys.executable, "-c", code, "plan", model, *OPTIONS]
        plan = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        sequences, length = plan["engine_args"]["max_num_seqs"], plan["capacity"]["request_length"]
        bars[f"{name}\n{sequences} sequences\nof {length:,} tokens"] = memory_of(plan)
    return bars


def main() -> None:
    """Draw the picture, with its numbers as the description of the file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "hybridserve", "svg.fonttype": "none", "font.family": "sans-serif"})
    bars = figures()
    figure = Figure(figsize=(8.6, 3.1), layout="constrained")
    axes = figure.subplots()
    for row, parts in enumerate(bars.values()):
        left = 0.0
        for name, size in parts.items():
            axes.barh(row, size, left=left, color=COLORS[name], edgecolor="white", label=name if row == 0 else None)
            if size >= 0.4:
                text = "white" if name == "weights" else "black"
                axes.text(left + size / 2, row, f"{size:.1f}", ha="center", va="center", fontsize=9, color=text)
            left += size
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set(xlabel="GiB of one NVIDIA L40S", xlim=(0, sum(next(iter(bars.values())).values())))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(PICTURE, metadata={"Date": None, "Description": json.dumps(bars)})


if __name__ == "__main__":
    main()
