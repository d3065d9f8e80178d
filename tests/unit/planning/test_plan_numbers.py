"""Plans compared with recorded results of vLLM's allocator, without an engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridserve.catalog.models import resolve_model
from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.layout import compute_layout, plan_cache
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.models import Architecture, read_architecture

GIB = 1 << 30
MIB = 1 << 20


def card(name: str) -> Architecture:
    return read_architecture(resolve_model(name).config)


NANO = card("nemotron-nano-9b-v2")
NANO_12B = card("nemotron-nano-12b-v2")
QWEN = card("qwen3-8b")


def test_nano_9b_layout_computed_by_hand():
    """Every number of the layout from the shapes: 128 heads of 80, state 128, 8 groups, conv 4; 8 KV heads of 128."""
    layout = compute_layout(NANO, CacheRequest(kv_bytes=0))
    assert layout.state_bytes == 3 * (128 * 80 + 2 * 8 * 128) * 2 + 128 * 80 * 128 * 4 == 5_316_608
    assert layout.token_bytes == 8 * 2 * 128 * 2 == 4096
    assert layout.kv_bytes_per_token == 16_384
    assert layout.block_size == 1312
    assert layout.page_bytes == 1312 * 4096 == 5_373_952
    assert round(layout.padding_percent, 2) == 1.08
    assert [(group.kind, group.layers) for group in layout.groups] == [("state", 4)] * 6 + [
        ("state", 3),
        ("attention", 4),
    ]
    assert layout.padding_layers == 1
    assert layout.bytes_per_block == 20.5 * MIB
    assert layout.state_bytes_per_sequence == 27 * 5_316_608
    assert layout.prefix_unit == 1312
    assert layout.blocks_per_sequence(131072) == 100 + 14
    assert layout.running_blocks(131072) == 100 + 7


# arch, request, version -> block size, blocks, tokens, concurrency to three places
PRINTED = [
    (NANO, {"kv_bytes": 4 * GIB}, "0.29.0", (1312, 199, 228_801, 1.746)),
    (NANO, {"kv_bytes": 4 * GIB}, "0.32.0", (1312, 199, 215_564, 1.645)),
    (NANO, {"kv_bytes": 4 * GIB, "tensor_parallel_size": 2}, "0.29.0", (1312, 399, 458_752, 3.5)),
    (NANO, {"kv_bytes": 4 * GIB, "tensor_parallel_size": 2}, "0.32.0", (1312, 399, 432_212, 3.298)),
    (NANO, {"kv_bytes": 4 * GIB, "tensor_parallel_size": 8}, "0.29.0", (1312, 1598, 1_837_307, 14.018)),
    (NANO, {"kv_bytes": 4 * GIB, "tensor_parallel_size": 8}, "0.32.0", (1312, 1598, 1_731_016, 13.207)),
    (NANO, {"kv_bytes": 4 * GIB, "pipeline_parallel_size": 2}, "0.29.0", (1312, 399, 458_752, 3.5)),
    (NANO, {"kv_bytes": 4 * GIB, "pipeline_parallel_size": 2}, "0.32.0", (1312, 399, 432_212, 3.298)),
    (NANO_12B, {"kv_bytes": 8 * GIB}, "0.29.0", (1312, 266, 316_955, 2.418)),
    (NANO_12B, {"kv_bytes": 8 * GIB}, "0.32.0", (1312, 266, 303_175, 2.313)),
    (QWEN, {"kv_bytes": 8 * GIB, "max_model_len": 32768}, "0.29.0", (16, 3640, 58_240, 1.777)),
    (QWEN, {"kv_bytes": 8 * GIB, "max_model_len": 32768}, "0.32.0", (16, 3640, 58_240, 1.777)),
]


@pytest.mark.parametrize(("arch", "request_", "engine", "printed"), PRINTED)
def test_printed_tokens_and_concurrency(arch, request_, engine, printed):
    plan = plan_cache(arch, CacheRequest(engine=engine, **request_))
    assert (plan.layout.block_size, plan.num_blocks, plan.tokens, round(plan.concurrency, 3)) == printed


# Settings of Nano 9B on 0.29 -> block size, MiB per block, MiB budgeted at 8k, 32k, 128k, GiB needed for one 128k
VARIANTS = [
    ({}, (1312, 20.5, 430.5, 799.5, 2337.0, 2.302)),
    ({"enable_prefix_caching": False}, (1312, 20.5, 287.0, 656.0, 2193.5, 2.162)),
    ({"kv_cache_dtype": "fp8"}, (2608, 20.38, 367, 550, 1324, 1.313)),
    ({"mamba_ssm_cache_dtype": "float16"}, (672, 10.50, 284, 662, 2205, 2.164)),
    ({"mamba_ssm_cache_dtype": "bfloat16"}, (672, 10.50, 284, 662, 2205, 2.164)),
    ({"kv_cache_dtype": "fp8", "mamba_ssm_cache_dtype": "float16"}, (1328, 10.38, 218, 405, 1172, 1.155)),
    ({"mamba_cache_mode": "all"}, (1408, 22.00, 1056, 4224, 16544, 16.18)),
    ({"tensor_parallel_size": 2}, (1312, 10.25, 215, 400, 1168, 1.151)),
    ({"use_replayssm": True}, (1392, 21.75, 435, 826, 2371, 2.336)),
    ({"block_size": 2048}, (2048, 32.0, 576, 960, 2496, 2.469)),
]


@pytest.mark.parametrize(("settings", "numbers"), VARIANTS, ids=lambda value: str(value)[:60])
def test_blocks_per_sequence(settings, numbers):
    layout = compute_layout(NANO, CacheRequest(kv_bytes=0, **settings))
    block, mib, *budgets, gib = numbers
    assert layout.block_size == block
    assert layout.bytes_per_block / MIB == pytest.approx(mib, abs=0.006)
    for length, budget in zip((8192, 32768, 131072), budgets, strict=True):
        assert layout.blocks_per_sequence(length) * layout.bytes_per_block / MIB == pytest.approx(budget, abs=1)
    needed = (layout.blocks_per_sequence(131072) + 1) * layout.bytes_per_block
    assert needed / GIB == pytest.approx(gib, abs=0.006)


def test_minimum_memory_is_exact_to_the_byte():
    needed = 115 * 20 * MIB + 115 * MIB // 2
    assert plan_cache(NANO, CacheRequest(kv_bytes=needed)).max_model_len == 131072
    with pytest.raises(PlanRefused, match="estimated maximum model length is 129888"):
        plan_cache(NANO, CacheRequest(kv_bytes=needed - 1))


def test_longest_context_equals_auto_length():
    request = CacheRequest(kv_bytes=2 * GIB, max_model_len=8192)
    plan = plan_cache(NANO, request)
    assert plan.longest_context == 110_208
    assert plan_cache(NANO, replace(request, max_model_len=-1)).max_model_len == 110_208
    assert plan_cache(NANO, replace(request, max_model_len=110_208)).num_blocks == 99
    with pytest.raises(PlanRefused):
        plan_cache(NANO, replace(request, max_model_len=110_209))


def test_n_safe_and_n_steady_match_a_measured_run():
    """M-M*, 40 usable blocks: no preemption at 5 requests of 500 + 400 tokens, and 10 prompts of 500 admitted."""
    config = resolve_model("nemotron-nano-9b-v2").config | {
        "hybrid_override_pattern": "M-M*",
        "mamba_num_heads": 16,
        "mamba_head_dim": 32,
        "ssm_state_size": 64,
        "num_key_value_heads": 2,
        "num_attention_heads": 8,
        "head_dim": 64,
    }
    plan = plan_cache(
        read_architecture(config),
        CacheRequest(platform="cpu", kv_bytes=0, num_gpu_blocks_override=41, max_model_len=1024),
    )
    assert plan.layout.block_size == 384
    assert plan.n_safe(900) == 5
    assert plan.n_safe(500) == 6
    assert plan.n_steady(500) == 10
    assert plan.n_steady(1500) == 6


def test_published_report_of_30b_on_h200():
    """A public report prints a block of 2096 and 7,035,562 tokens at 32768, which only 24 blocks a sequence explain."""
    layout = compute_layout(card("nemotron-3-nano-30b-a3b"), CacheRequest(kv_bytes=0))
    assert layout.block_size == 2096
    assert layout.blocks_per_sequence(32768) == 24
    assert int(5153 / 24 * 32768) == 7_035_562
