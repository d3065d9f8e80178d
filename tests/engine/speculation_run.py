"""Run greedy requests on one vLLM engine in this process, and write its tokens, counters and cache as JSON.

    python speculation_run.py case.json result.json

A case is ``{"args": engine arguments, "prompts": token ids, "output": tokens}``. The result has `error` where the
engine stopped. A process of its own for each case: vLLM keeps state in its modules.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import vllm.model_executor.model_loader.base_loader as base_loader
from vllm import LLM, SamplingParams
from vllm.v1.kv_cache_interface import MambaSpec

# Bytes of every parameter before the CPU engine packs it into another layout, by model.
LOADED: dict[int, dict[str, int]] = {}
_process = base_loader.process_weights_after_loading


def _record(model: Any, *args: Any) -> None:
    LOADED[id(model)] = {name: p.numel() * p.element_size() for name, p in model.named_parameters()}
    _process(model, *args)


base_loader.process_weights_after_loading = _record


def engine_facts(llm: LLM) -> dict[str, Any]:
    """What the engine allocated: groups, blocks, state blocks of one sequence, and bytes of weights."""
    core = llm.llm_engine.engine_core.engine_core
    cache, runner = core.scheduler.kv_cache_config, core.model_executor.driver_worker.worker.model_runner
    states = [group.kv_cache_spec for group in cache.kv_cache_groups if isinstance(group.kv_cache_spec, MambaSpec)]
    weights = sum(LOADED[id(runner.model)].values())
    draft = getattr(getattr(runner, "drafter", None), "model", None)
    if draft is not None:
        shared = {id(p) for p in runner.model.parameters()}
        tables = {name for name, p in draft.named_parameters() if id(p) in shared}
        weights += sum(size for name, size in LOADED[id(draft)].items() if name not in tables)
    return {
        "groups": [
            ["state" if isinstance(group.kv_cache_spec, MambaSpec) else "attention", len(group.layer_names)]
            for group in cache.kv_cache_groups
        ],
        "num_blocks": cache.num_blocks,
        "draft_blocks": states[0].num_speculative_blocks,
        "max_state_bytes": states[0].max_memory_usage_bytes(core.vllm_config),
        "page_bytes": states[0].page_size_bytes,
        "weights": weights,
    }


def main() -> None:
    """Run the case."""
    case = json.loads(Path(sys.argv[1]).read_text())
    llm = LLM(**case["args"], disable_log_stats=False)
    result: dict[str, Any] = {"engine": engine_facts(llm), "tokens": None, "error": None}
    sampling = SamplingParams(temperature=0, max_tokens=case["output"])
    try:
        replies = llm.generate([{"prompt_token_ids": ids} for ids in case["prompts"]], sampling, use_tqdm=False)
        result["tokens"] = [list(reply.outputs[0].token_ids) for reply in replies]
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    result["counters"] = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
