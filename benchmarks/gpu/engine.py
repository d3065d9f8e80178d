"""Start one vLLM engine with dummy weights in this process, and read what it decided about its memory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# How a step starts its engine. When an attempt fails before the engine is up, a fresh process makes the next one.
ATTEMPTS: list[dict[str, Any]] = [
    {},
    {"compilation_config": {"mode": 0}},
    {"enforce_eager": True, "attention_backend": "TRITON_ATTN"},
]


def start(model: str, sizes: dict[str, Any], attempt: int, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """An engine with the shapes of `model`, and how it was started.

    Args:
        model: folder under models/.
        sizes: the run's sizes (`steps.FULL`, `SHORT` or `TINY`).
        attempt: index into `ATTEMPTS`.
        settings: arguments of `vllm.LLM`; None leaves one out.
    """
    from vllm import LLM

    folder = HERE / "models" / f"{model}{sizes['suffix']}"
    arguments: dict[str, Any] = {
        "model": str(folder),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "seed": 0,
        "disable_log_stats": True,
        **sizes["engine"],
    }
    arguments.update({key: value for key, value in settings.items() if value is not None})
    arguments.update(ATTEMPTS[attempt])
    if attempt:
        arguments.pop("kv_transfer_config", None)
    begin = time.perf_counter()
    llm = LLM(**arguments)
    took = round(time.perf_counter() - begin, 2)
    return llm, {"start_s": took, "attempt": attempt, "settings": as_json(arguments)}


def as_json(value: Any) -> Any:
    """The value with everything that JSON cannot carry turned into text."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [as_json(item) for item in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return str(value)


def fields(source: Any, names: str) -> dict[str, Any]:
    """The named attributes that `source` has."""
    return {name: as_json(getattr(source, name)) for name in names.split() if hasattr(source, name)}


def facts(llm: Any) -> dict[str, Any]:
    """What the engine decided and measured: cache, scheduler, pool and groups, memory in bytes."""
    engine = llm.llm_engine
    config = engine.vllm_config
    core = engine.engine_core.engine_core
    out: dict[str, Any] = {
        "cache": fields(
            config.cache_config,
            "block_size mamba_block_size mamba_page_size_padded num_gpu_blocks mamba_cache_mode mamba_cache_dtype "
            "mamba_ssm_cache_dtype enable_prefix_caching gpu_memory_utilization kv_cache_memory_bytes cache_dtype "
            "kv_cache_size_tokens kv_cache_max_concurrency prefix_match_unit",
        ),
        "scheduler": fields(
            config.scheduler_config,
            "max_num_seqs max_num_batched_tokens async_scheduling enable_chunked_prefill watermark",
        ),
        "model": fields(config.model_config, "max_model_len dtype"),
        "compilation": fields(config.compilation_config, "mode cudagraph_mode max_cudagraph_capture_size custom_ops"),
    }
    sizes = getattr(config.compilation_config, "cudagraph_capture_sizes", None) or []
    out["compilation"]["capture_sizes"] = len(sizes)
    pool = core.scheduler.kv_cache_config
    out["pool"] = {
        "num_blocks": pool.num_blocks,
        "tensors": [{"size": t.size, "layers": len(getattr(t, "layers", ()))} for t in pool.kv_cache_tensors],
        "groups": [
            {
                "kind": type(g.kv_cache_spec).__name__,
                "layers": len(g.layer_names),
                **fields(g.kv_cache_spec, "block_size page_size_bytes num_kv_heads head_size dtype shapes dtypes"),
            }
            for g in pool.kv_cache_groups
        ],
    }
    worker = core.model_executor.driver_worker
    worker = getattr(worker, "worker", worker)
    runner = getattr(worker, "model_runner", None)
    out["memory"] = fields(
        worker,
        "requested_memory total_consumed peak_activation_memory cudagraph_memory_estimate "
        "available_kv_cache_memory_bytes use_v2_model_runner",
    )
    out["memory"] |= fields(runner, "model_memory_usage")
    snapshot = getattr(worker, "init_snapshot", None)
    if snapshot is not None:
        out["memory"]["at_start"] = fields(snapshot, "total_memory free_memory non_torch_memory torch_memory")
    with contextlib.suppress(Exception):
        model = runner.get_model()
        out["memory"]["parameters"] = sum(p.numel() for p in model.parameters())
        out["memory"]["parameter_bytes"] = sum(p.numel() * p.element_size() for p in model.parameters())
    out["memory"]["now"] = gpu_now()
    return out


def gpu_now() -> dict[str, Any]:
    """Memory of the GPU now, in bytes; empty on CPU."""
    import torch

    with contextlib.suppress(Exception):
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return {
                "free": free,
                "total": total,
                "allocated": torch.cuda.memory_allocated(),
                "reserved": torch.cuda.memory_reserved(),
                "peak": torch.cuda.max_memory_allocated(),
            }
    return {}
