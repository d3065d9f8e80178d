"""Every step of the measurement: what it starts, what it records, and how many seconds it may take.

A step is a function `(run, sizes, **settings)`. It fills `run.out`, which is written after each part, so that a step
that runs out of time leaves what it had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import probe
from request_runner import RequestRunner, blocks_of, most_that_fit, spread

from engine import facts, gpu_now, start

Sizes = dict[str, Any]


@dataclass
class StepRun:
    """One step in progress.

    Attributes:
        out: the results so far, as JSON values.
        limit_s: seconds the step may take.
        part: file that `save` writes.
        attempt: index into `engine.ATTEMPTS`.
    """

    out: dict[str, Any]
    limit_s: float
    part: Path
    attempt: int = 0
    begin: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds left."""
        return self.limit_s - (time.monotonic() - self.begin)

    def save(self) -> None:
        """Write the results so far."""
        self.part.write_text(json.dumps(self.out))

    def engine(self, model: str, sizes: Sizes, **settings: Any) -> RequestRunner:
        """Start the engine and record its facts."""
        llm, self.out["start"] = start(model, sizes, self.attempt, **settings)
        self.out["facts"] = facts(llm)
        self.save()
        return RequestRunner(llm)


def probe_card(run: StepRun, sizes: Sizes) -> None:
    """The card's bandwidth, its bfloat16 rate, and whether the carried kernels are right."""
    probe.probe(sizes, run.out)


def capacity(run: StepRun, sizes: Sizes, model: str, **settings: Any) -> None:
    """Start an engine, record what it decided, and answer four requests."""
    requests = run.engine(model, sizes, **settings)
    run.out["smoke"] = requests.whole(200, 8, 4, run.limit_s)
    run.out["gpu_after"] = gpu_now()


def refusal(run: StepRun, sizes: Sizes, model: str, **settings: Any) -> None:
    """Settings that the planner refuses: record the engine's reason, or None where it starts."""
    run.out["refused"] = None
    try:
        start(model, sizes, run.attempt, **settings)
    except Exception as error:
        run.out["refused"] = f"{type(error).__name__}: {error}"[:2000]


def instant_prefill() -> Any:
    """The KV connector of instant_prefill.py, as vLLM's setting."""
    from vllm.config import KVTransferConfig

    return KVTransferConfig(
        kv_connector="InstantPrefill", kv_connector_module_path="instant_prefill", kv_role="kv_both"
    )


def admission(run: StepRun, sizes: Sizes, model: str, **settings: Any) -> None:
    """A small pool with more requests than fit: how many run at once, and at which rate."""
    requests = run.engine(model, sizes, kv_transfer_config=instant_prefill(), **settings)
    found = run.out["facts"]
    run.out["points"] = []
    for length in sizes["admission"]:
        if length + 400 > found["model"]["max_model_len"]:
            continue
        fit = found["pool"]["num_blocks"] // blocks_of(found["pool"], found["cache"], length)
        point = requests.decode([length] * (fit + 6), sizes["steps"], 40)
        run.out["points"].append({"length": length, "fit": fit, **point})
        run.save()


def speed(run: StepRun, sizes: Sizes, model: str, **settings: Any) -> None:
    """Decode steps at many batches and lengths, prefill, and complete requests beside the same arithmetic."""
    requests = run.engine(model, sizes, kv_transfer_config=instant_prefill(), **settings)
    out = run.out
    pool, cache = out["facts"]["pool"], out["facts"]["cache"]
    seqs = out["facts"]["scheduler"]["max_num_seqs"]
    out["prefill"], out["points"], out["workloads"], out["whole"] = [], [], [], []
    requests.whole(64, 4, 2, 60)  # compiles what the first request needs
    for isl, osl in sizes["workloads"]:
        workload(run, requests, sizes, isl, osl)
        if run.left() < 10:
            return
    for count, length in sizes["points"]:
        if run.left() < 10:
            return
        if count > seqs or count * blocks_of(pool, cache, length + 200) > pool["num_blocks"] - 1:
            continue
        out["points"].append(requests.decode([length] * count, sizes["steps"], max(5, min(30, run.left()))))
        run.save()
    for length, tokens, count in sizes["whole"]:
        if run.left() < 15:
            return
        whole = requests.whole(length, tokens, count, max(10, run.left() - 5))
        step = requests.decode(spread(length, length + tokens, count), sizes["steps"], max(5, run.left()))
        rate = requests.prefill(length, count, max(5, run.left()))
        whole["from_parts_s"] = round(count * length / rate["tokens_per_s"] + tokens * step["step_ms_mean"] / 1e3, 3)
        whole["step_ms"] = step["step_ms_mean"]
        whole["prefill_tokens_per_s"] = rate["tokens_per_s"]
        out["whole"].append(whole)
        run.save()
    out["gpu_after"] = gpu_now()


def workload(run: StepRun, requests: RequestRunner, sizes: Sizes, isl: int, osl: int) -> None:
    """Output tokens a second at one input and output length, with as many sequences as the pool takes.

    Source of the formula: a request costs its own prefill, isl / prefill rate, and osl shares of a decode step.
    """
    found = run.out["facts"]
    requests.prefill(isl, 2, max(5, run.left()))  # compiles what this length needs
    rate = requests.prefill(isl, max(1, sizes["prefill_tokens"] // isl), max(5, run.left()))
    run.out["prefill"].append(rate)
    fit = most_that_fit(found["pool"], found["cache"], isl, isl + osl, found["scheduler"]["max_num_seqs"])
    # Slightly less than fits, so that new tokens have blocks and nothing is preempted.
    held = max(1, int(0.97 * fit))
    run.save()
    point = requests.decode(spread(isl, isl + osl, held), sizes["steps"], max(5, min(60, run.left())))
    running, step = point["running"], point["step_ms_mean"] / 1e3
    per_request = isl / rate["tokens_per_s"] + osl * step / max(1, running)
    run.out["workloads"].append(
        {
            "isl": isl,
            "osl": osl,
            "fit": fit,
            "decode": point,
            "prefill_tokens_per_s": rate["tokens_per_s"],
            "output_tokens_per_s": round(osl / per_request, 1),
            "decode_only_tokens_per_s": round(running / step, 1),
        }
    )
    run.save()


def turns(run: StepRun, sizes: Sizes, model: str, **settings: Any) -> None:
    """Time to first token of each turn of a conversation that sends its whole history again."""
    requests = run.engine(model, sizes, **settings)
    requests.whole(64, 4, 2, 60)
    length, grow, count = sizes["turns"]
    requests.seen = {}
    history = requests.prompt(length)
    run.out["turns"] = []
    for turn in range(1, count + 1):
        began = time.perf_counter()
        name = requests.add(len(history), 8, instant=False, prompt=history)
        first_s = None
        while requests.counts() != (0, 0):
            requests.step()
            if first_s is None and requests.seen.get(name, 0) > 0:
                first_s = time.perf_counter() - began
        run.out["turns"].append({"turn": turn, "prompt": len(history), "ttft_s": round(first_s or -1.0, 4)})
        run.save()
        history = history + [(turn * 131 + i * 17) % 500 + 3 for i in range(grow)]


Step = tuple[Callable[..., None], dict[str, Any], float]


def steps(sizes: Sizes) -> dict[str, Step]:
    """Every step by name: its function, its engine settings, and the seconds it may take."""
    wide = {
        "max_model_len": sizes["context"],
        "max_num_seqs": sizes["seqs"],
        "max_num_batched_tokens": sizes["batched"],
    }
    small = {"max_model_len": sizes["small"], "max_num_seqs": 16, "max_num_batched_tokens": 2048}
    served = {"max_num_seqs": sizes["most"], "max_num_batched_tokens": sizes["batched"]}
    nano, qwen = {"model": "nano9b"}, {"model": "qwen8b"}
    cached = {**nano, **wide, "max_num_seqs": 64, "enable_prefix_caching": True}
    return {
        "probe": (probe_card, {}, 60),
        # Throughput, and the capacity of the settings it is measured with.
        "nano-speed": (speed, {**nano, **wide, "enable_prefix_caching": False}, 260),
        "qwen-speed": (speed, {**qwen, **wide, "enable_prefix_caching": False}, 220),
        # Capacity: what `vllm serve` would choose, the planner's flags, and one setting changed at a time.
        "nano-served": (capacity, {**nano, **served}, 150),
        "qwen-served": (capacity, {**qwen, **served}, 150),
        "nano-planned": (capacity, {**nano, **sizes["planned"]}, 150),
        "nano-prefix": (capacity, {**nano, **wide, "enable_prefix_caching": True}, 150),
        "nano-bf16-state": (capacity, {**nano, **wide, "mamba_ssm_cache_dtype": "bfloat16"}, 150),
        "nano-fp16-state": (capacity, {**nano, **wide, "mamba_ssm_cache_dtype": "float16"}, 150),
        "nano-64-seqs": (capacity, {**nano, **wide, "max_num_seqs": 64}, 150),
        "nano-few": (capacity, {**nano, **wide, "max_num_seqs": 16}, 150),
        "nano-long": (capacity, {**nano, **wide, "max_model_len": sizes["longest"]}, 150),
        "nano-fp8": (capacity, {**nano, **wide, "kv_cache_dtype": "fp8"}, 150),
        "nano-eager": (capacity, {**nano, **wide, "enforce_eager": True}, 120),
        # Settings that the planner refuses: the engine must refuse them, too.
        "nano-refused": (refusal, {**nano, **sizes["refused"]}, 90),
        # The pool of an A10G on this card.
        "nano-a10g": (
            admission,
            {**nano, **small, "enable_prefix_caching": False, "kv_cache_memory_bytes": sizes["pool"]["nano"]},
            120,
        ),
        "qwen-a10g": (
            admission,
            {**qwen, **small, "enable_prefix_caching": False, "kv_cache_memory_bytes": sizes["pool"]["qwen"]},
            120,
        ),
        # Time to first token in a conversation, with the engine's default cache settings and with finer matching.
        "nano-turns": (turns, cached, 120),
        "nano-turns-fine": (turns, {**cached, "prefix_match_unit": 32}, 120),
    }


ORDER = (
    "probe,nano-speed,qwen-speed,nano-served,qwen-served,nano-planned,nano-a10g,qwen-a10g,nano-prefix,"
    "nano-bf16-state,nano-fp16-state,nano-64-seqs,nano-long,nano-refused,nano-turns,nano-turns-fine,nano-few,"
    "nano-fp8,nano-eager"
)

FULL: Sizes = {
    "suffix": "",
    "engine": {},
    "context": 32768,
    # Less than what the pool of an A10G takes of Qwen3-8B (31,872 tokens in the run of 2026-11-27).
    "small": 28672,
    "longest": 131072,
    "seqs": 512,
    "most": 1024,
    "batched": 8192,
    "planned": {
        "max_model_len": 131072,
        "max_num_seqs": 184,
        "max_num_batched_tokens": 9368,
        "enable_prefix_caching": True,
    },
    # A pool too small for one sequence of the longest context.
    "refused": {"max_model_len": 131072, "kv_cache_memory_bytes": 1 << 30},
    # What the planner's estimate for an A10G leaves for the cache, in bytes (`hybridserve plan ... --gpu a10g`).
    "pool": {"nano": 2_474_990_808, "qwen": 5_139_594_087},
    "steps": 60,
    "workloads": [(8192, 16384), (1024, 8192)],
    "prefill_tokens": 131072,
    "points": [
        (1, 16384), (8, 16384), (25, 16384), (64, 16384), (1, 5120), (8, 5120), (80, 5120), (128, 1024), (256, 1024),
    ],
    "whole": [(1024, 256, 64)],
    "admission": [8192, 16384],
    # Tokens of the first prompt, tokens that each turn adds, turns.
    "turns": (4096, 1500, 8),
}  # fmt: skip
# The same widths with a few layers.
SHORT: Sizes = FULL | {
    "suffix": "-short",
    "engine": {"gpu_memory_utilization": 0.8},
    "seqs": 32,
    "most": 64,
    "context": 4096,
    "small": 4096,
    "longest": 8192,
    "batched": 2048,
    "planned": {
        "max_model_len": 8192,
        "max_num_seqs": 20,
        "max_num_batched_tokens": 2000,
        "enable_prefix_caching": True,
    },
    "refused": {"max_model_len": 8192, "kv_cache_memory_bytes": 1 << 20},
    "pool": {"nano": 400 << 20, "qwen": 200 << 20},
    "steps": 4,
    "workloads": [(512, 256), (64, 128)],
    "prefill_tokens": 1024,
    "points": [(1, 1024), (8, 1024)],
    "whole": [(100, 8, 4)],
    "admission": [600],
    "turns": (600, 100, 3),
}
# vLLM's CPU build.
TINY: Sizes = SHORT | {
    "suffix": "-tiny",
    "engine": {"enforce_eager": True, "kv_cache_memory_bytes": 64 << 20, "distributed_executor_backend": "uni"},
    "pool": {"nano": 16 << 20, "qwen": 16 << 20},
}
