"""Print, as JSON, what a vLLM release says about itself. Run in its environment; imports nothing of hybridserve."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from vllm import envs
from vllm.config.cache import CacheConfig, MambaCacheMode
from vllm.config.speculative import SpeculativeMethod
from vllm.engine import arg_utils
from vllm.model_executor.models import interfaces
from vllm.model_executor.models.registry import ModelRegistry
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.worker.utils import copy_kv_cache_blocks_inplace

GIB = 1 << 30
PARSER_MODULES = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.common.cli_args")


def constants(architectures: list[str]) -> dict[str, Any]:
    """Fields of the engine table that can be read off; the differential run proves the others."""
    modes = list(get_args(MambaCacheMode))
    server = []
    for gib in (160, 70, 0):
        with device(gib * GIB, "NVIDIA H100", (9, 0)):
            server.append({"from_gib": gib, **batch_defaults()})
    with device(119 * GIB, "NVIDIA GB10", (12, 1)):
        gb10 = batch_defaults()
    with device(0, "", None):
        cpu = {"from_gib": 0, **batch_defaults()}
    return {
        "mamba_cache_modes": modes,
        "mode_all_architectures": sorted(filter(caches_all_states, architectures)) if "all" in modes else [],
        "default_gpu_memory_utilization": default("gpu_memory_utilization"),
        "default_replayssm_buffer_len": default("replayssm_buffer_len"),
        "default_block_size": {"cuda": CacheConfig.DEFAULT_BLOCK_SIZE},
        "cpu_head_sizes": sorted(CPUAttentionBackend.get_supported_head_sizes()),
        "server_defaults": server,
        "server_defaults_cpu": cpu,
        "small_default_capabilities": ["12.1"] if gb10 == {k: server[-1][k] for k in gb10} else [],
        "copies_whole_blocks": copies_whole_blocks(),
    }


def default(name: str) -> Any:
    """Default of a field of CacheConfig. A dataclass of pydantic has the field's limits around it."""
    value = next(field.default for field in dataclasses.fields(CacheConfig) if field.name == name)
    return getattr(value, "default", value)


def copies_whole_blocks() -> bool:
    """Whether a copied block is whole where a state, which is shorter, and keys and values share its memory."""
    blocks, size, state = 4, 96, 64
    # Memory of two layers, as in an engine.
    memory = torch.zeros(2 * blocks * size, dtype=torch.int8)[: blocks * size].view(blocks, size)
    memory[1] = 1
    copy_kv_cache_blocks_inplace([memory[:, :state], memory], blocks, [(1, 2)])
    return bool(memory[2].all())


def caches_all_states(architecture: str) -> bool:
    """Whether the class supports the cache mode `all`."""
    if not hasattr(interfaces, "supports_mamba_prefix_caching"):  # 0.33: the mode is gone.
        return False
    try:
        return interfaces.supports_mamba_prefix_caching(ModelRegistry.models[architecture].load_model_cls())
    except Exception:  # A class with an encoder may need a package that is not installed; none of them is listed.
        return False


def batch_defaults() -> dict[str, int]:
    """Scheduler defaults of the API server on the current device."""
    tokens, seqs = arg_utils.EngineArgs.get_batch_defaults(1)
    server = UsageContext.OPENAI_API_SERVER
    return {"max_num_seqs": seqs[server], "max_num_batched_tokens": tokens[server]}


@contextmanager
def device(memory: int, name: str, capability: tuple[int, int] | None) -> Iterator[None]:
    """A GPU with this memory, name and compute capability, or a CPU, for `batch_defaults`."""
    real = arg_utils.current_platform
    arg_utils.current_platform = types.SimpleNamespace(
        get_device_total_memory=lambda: memory,
        get_device_name=lambda: name,
        is_device_capability=lambda wanted: wanted == capability,
        is_tpu=lambda: False,
        is_cpu=lambda: capability is None,
    )
    try:
        yield
    finally:
        arg_utils.current_platform = real


def flags() -> dict[str, Any]:
    """Every flag of `vllm serve` with its choices."""
    for name in PARSER_MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        parser = module.make_arg_parser(FlexibleArgumentParser())
        return {
            next(option for option in action.option_strings if option.startswith("--")): sorted(
                map(str, action.choices)
            )
            if action.choices
            else None
            for action in parser._actions
            if any(option.startswith("--") for option in action.option_strings)
        }
    raise SystemExit(f"no parser in {' or '.join(PARSER_MODULES)}")


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "constants": constants(sys.argv[1:]),
                "flags": flags(),
                "environment": sorted(envs.environment_variables),
                "speculation": sorted(get_args(SpeculativeMethod)),
            }
        )
    )
