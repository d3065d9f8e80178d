"""Refusals and warnings of the cache planner."""

from __future__ import annotations

import pytest

from hybridserve.catalog.models import resolve_model
from hybridserve.errors import CatalogError, PlanRefused
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.models import read_architecture
from hybridserve.planning.parallelism import allowed_sizes

GIB = 1 << 30
CONFIG = resolve_model("nemotron-nano-9b-v2").config
NANO = read_architecture(CONFIG)
QWEN = read_architecture(resolve_model("qwen3-8b").config)

REFUSED = [
    ({"tensor_parallel_size": 3}, "engine.tensor_parallel_size", "attention heads", "one of 1, 2, 4, 8"),
    ({"tensor_parallel_size": 16}, "engine.tensor_parallel_size", "attention heads", "one of 1, 2, 4, 8"),
    ({"tensor_parallel_size": 5}, "engine.tensor_parallel_size", "KV heads", "one of 1, 2, 4, 8"),
    ({"tensor_parallel_size": 0}, "engine.tensor_parallel_size", "not a number of devices", "1 or more"),
    ({"pipeline_parallel_size": 57}, "engine.pipeline_parallel_size", "no attention or Mamba layer", "at most "),
    ({"max_model_len": 131073}, "engine.max_model_len", "greater than the derived max_model_len", "1 to 131072"),
    ({"max_model_len": 0}, "engine.max_model_len", "not a length", "1 to 131072"),
    ({"kv_bytes": 2 * GIB}, "engine.max_model_len", "estimated maximum model length is 110208", "at most 110208"),
    ({"kv_bytes": 0}, "engine.kv_cache_memory_bytes", "No available memory for the cache blocks", "2.30 GiB"),
    ({"kv_bytes": 0, "max_model_len": -1}, "engine.max_model_len", "Cannot auto-fit", "at least 0.32 GiB"),
    ({"max_num_seqs": 500}, "engine.max_num_seqs", "exceeds available Mamba cache blocks (399)", "at most 399"),
    ({"prefix_match_unit": 48}, "engine.prefix_match_unit", "Invalid prefix_match_unit=48", "a divisor of 1312"),
    ({"enable_chunked_prefill": False}, "engine.enable_chunked_prefill", "Chunked prefill is required", "leave it on"),
    ({"mamba_cache_mode": "all", "engine": "0.32.0"}, "engine.mamba_cache_mode", "no mamba cache mode 'all'", "align"),
    (
        {"mamba_block_size": 512, "enable_prefix_caching": False},
        "engine.mamba_block_size",
        "can only be set with --enable-prefix-caching",
        "leave it empty",
    ),
    ({"use_replayssm": True, "engine": "0.32.0"}, "engine.use_replayssm", "Model Runner V1", "leave it off"),
    ({"use_replayssm": True, "mamba_cache_mode": "all"}, "engine.use_replayssm", "only in align mode", "align"),
    ({"kv_cache_dtype": "nvfp4"}, "engine.kv_cache_dtype", "not supported by the planner", "fp8"),
    ({"kv_cache_dtype": "bfloat16", "platform": "cpu"}, "engine.kv_cache_dtype", "planner on cpu", "auto, fp8"),
    ({"kv_cache_dtype": "float16", "engine": "0.33.0"}, "engine.kv_cache_dtype", "incompatible with dtype", "bfloat16"),
    ({"mamba_ssm_cache_dtype": "fp8"}, "engine.mamba_ssm_cache_dtype", "not a type", "float32"),
    ({"block_size": 24}, "engine.block_size", "no CUDA attention backend", "a multiple of 16"),
    ({"block_size": 0}, "engine.block_size", "less than one", "leave it empty"),
    ({"num_speculative_tokens": -1}, "engine.num_speculative_tokens", "negative", "0 or more"),
]


@pytest.mark.parametrize(("settings", "where", "what", "fix"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusals(settings, where, what, fix):
    with pytest.raises(PlanRefused) as caught:
        plan_cache(NANO, CacheRequest(**{"kv_bytes": 8 * GIB, **settings}))
    assert caught.value.where == where
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_unsupported_cpu_head_size_is_refused():
    """vLLM 0.29 starts with heads of 24 and fails on the first request."""
    arch = read_architecture(CONFIG | {"head_dim": 24})
    assert plan_cache(arch, CacheRequest(kv_bytes=8 * GIB)).num_blocks
    with pytest.raises(PlanRefused, match="head_dim=24"):
        plan_cache(arch, CacheRequest(kv_bytes=8 * GIB, platform="cpu"))


def test_allowed_sizes_follow_the_groups():
    assert allowed_sizes(NANO) == (1, 2, 4, 8)
    one_group = read_architecture(CONFIG | {"n_groups": 1})
    assert 8 in allowed_sizes(one_group)
    assert allowed_sizes(one_group, replayssm=True) == (1,)


def test_full_graphs_need_a_block_per_sequence_on_cuda_hybrids():
    many = {"kv_bytes": 8 * GIB, "max_model_len": 8192, "max_num_seqs": 100_000}
    with pytest.raises(PlanRefused):
        plan_cache(NANO, CacheRequest(**many))
    assert plan_cache(NANO, CacheRequest(**many, full_cudagraphs=False)).warnings
    assert plan_cache(NANO, CacheRequest(**many, platform="cpu")).num_blocks
    assert plan_cache(QWEN, CacheRequest(**many)).num_blocks


WARNED = [
    (
        {"engine": "0.31.2"},
        "engine table (0.29.0, 0.30.0, 0.31.0, 0.32.0, 0.33.0): planned with the constants of 0.31.0",
    ),
    ({"engine": "0.28.0"}, "constants of 0.29.0"),
    ({"engine": "1.0.0"}, "constants of 0.33.0"),
    ({"mamba_cache_mode": "all", "enable_prefix_caching": False}, "becomes none: prefix caching is off"),
    ({"mamba_cache_mode": "all", "max_model_len": 8192}, "one state per block of every sequence"),
    ({"block_size": 2048}, "because of block_size; leave block_size empty"),
    ({"num_speculative_tokens": 2}, "speculative decoding on a hybrid"),
    ({"pipeline_parallel_size": 4}, "pipeline stage 0 has no attention layer"),
    ({"kv_bytes": 115 * 21495808}, "takes 114 of 114 blocks"),
    ({"engine": "0.32.0", "platform": "cpu"}, "Mamba-2 prefill that crosses a block fails in mode `align`"),
]


@pytest.mark.parametrize(("settings", "words"), WARNED, ids=lambda value: str(value)[:50])
def test_warnings(settings, words):
    plan = plan_cache(NANO, CacheRequest(**{"kv_bytes": 8 * GIB, **settings}))
    assert any(words in warning for warning in plan.warnings), plan.warnings


def test_default_settings_have_no_warnings():
    assert plan_cache(NANO, CacheRequest(kv_bytes=8 * GIB)).warnings == ()
    assert plan_cache(QWEN, CacheRequest(kv_bytes=8 * GIB, max_model_len=8192)).warnings == ()


def test_invalid_engine_version_is_an_error():
    with pytest.raises(CatalogError, match="'latest' is not a vLLM version"):
        plan_cache(NANO, CacheRequest(engine="latest", kv_bytes=8 * GIB))


def test_fp8_cache_of_a_checkpoint_is_used():
    checkpoint = {
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    }
    asked = plan_cache(read_architecture(CONFIG | checkpoint), CacheRequest(kv_bytes=8 * GIB))
    assert asked.layout.kv_cache_dtype == "fp8"
    assert asked.layout.block_size == 2608
