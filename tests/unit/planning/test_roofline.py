"""The throughput bound: results computed by hand, invariants, and a published ratio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.catalog.accelerators import accelerator
from hybridserve.errors import CatalogError
from hybridserve.planning.deployment import plan_deployment
from hybridserve.planning.roofline import DevicePeaks, bound, compare, decode_step, device_peaks, prefill
from hybridserve.planning.serialize import served_model
from hybridserve.units import GIB
from support.planned_models import NANO_9B, QWEN3_8B, deployment_of


@pytest.fixture(scope="module")
def both():
    plans = [
        plan_deployment(deployment_of(config, "l40s", max_num_seqs=8, kv_cache_memory_bytes=8 * GIB))
        for config in (NANO_9B, QWEN3_8B)
    ]
    return tuple(served_model(plan) for plan in plans)


def test_decode_step_computed_by_hand(both):
    nano, qwen = both
    # 8 sequences of 16,384 tokens. Weights without the embedding table, keys and values, state read and written.
    step = decode_step(nano, 8, 16_384)
    weights = 8_888_227_328 * 2 + 2 * 27 * 128 - 131_072 * 4480 * 2
    assert step.bytes == weights + 8 * (16_384 * 16_384 + 2 * 27 * 5_316_608)
    active = 8_888_227_328 - 131_072 * 4480
    state = 27 * 6 * 128 * 80 * 128
    assert step.flops == 8 * (2 * active + state + 4 * 4 * 40 * 128 * 16_384)
    step = decode_step(qwen, 8, 16_384)
    assert step.bytes == (8_190_735_360 - 151_936 * 4096) * 2 + 8 * 16_384 * 147_456


def test_prefill_attention_is_causal(both):
    _, qwen = both
    one, two = prefill(qwen, 1000).flops, prefill(qwen, 2000).flops
    square = 2 * 36 * 32 * 128 * 1000**2
    assert two - 2 * one == pytest.approx(2 * square)


def test_token_time_is_at_least_reading_the_weights(both):
    nano, _ = both
    device = device_peaks(accelerator("a10g"))
    limit = bound(nano, device, 1, 1, 1)
    assert limit.inter_token_s > (nano.weights.bytes - 131_072 * 4480 * 2) / 600e9
    assert limit.decode_limit == "memory bandwidth"


def test_prompts_have_a_limit_of_their_own(both):
    nano, _ = both
    device = device_peaks(accelerator("a100-80gb"))
    long, short = (bound(nano, device, 8, prompt, 512) for prompt in (8192, 1))
    assert (long.prefill_limit, long.decode_limit) == ("compute", "memory bandwidth")
    assert short.prefill_limit == "memory bandwidth"


@given(
    batch=st.integers(1, 512), prompt=st.integers(1, 100_000), output=st.integers(1, 32_000), faster=st.floats(1.0, 8.0)
)
def test_bound_is_monotonic_in_device_and_batch(both, batch, prompt, output, faster):
    nano, _ = both
    slow = DevicePeaks(600e9, 70e12)
    one = bound(nano, slow, batch, prompt, output)
    other = bound(nano, DevicePeaks(600e9 * faster, 70e12 * faster), batch, prompt, output)
    more = bound(nano, slow, batch + 1, prompt, output)
    assert other.output_tokens_per_s >= one.output_tokens_per_s
    assert more.output_tokens_per_s >= one.output_tokens_per_s * (1 - 1e-9)
    assert 0 < one.prefill_share < 1


def test_published_ratio_is_mostly_capacity(both):
    """8k in, 16k out on an A10G: the paper has up to 6.3x, and 156 tokens/s for the hybrid at batch 8.

    A 22 GiB card holds 8 such sequences of the hybrid and one of the transformer.
    """
    nano, qwen = both
    ratio = compare(nano, qwen, device_peaks(accelerator("a10g")), (8, 1), 8192, 16_384)
    assert ratio.total == pytest.approx(ratio.equal_batch * ratio.capacity)
    assert 6.0 < ratio.total < 7.0
    assert 0.95 < ratio.equal_batch < 1.1
    # It is a bound: what was measured lies below.
    assert ratio.ours.output_tokens_per_s > 156


def test_equal_batch_ratio_grows_with_batch_and_context(both):
    nano, qwen = both
    device = device_peaks(accelerator("h100"))
    ratios = [compare(nano, qwen, device, (batch, batch), 8192, 16_384).total for batch in (1, 8, 64)]
    assert ratios == sorted(ratios)
    assert all(
        compare(nano, qwen, device, (batch, batch), 8192, 16_384).capacity == pytest.approx(1) for batch in (1, 8, 64)
    )
    short = compare(nano, qwen, device, (8, 8), 128, 128).total
    assert short < 1


def test_quantized_weights_use_supported_compute_units():
    assert device_peaks(accelerator("h100"), "fp8").flops == 1979e12
    assert device_peaks(accelerator("a100-80gb"), "fp8").flops == 312e12
    assert device_peaks(accelerator("b200"), "nvfp4").flops == 9000e12


def test_device_without_peaks_has_no_bound():
    with pytest.raises(CatalogError, match="bandwidth"):
        device_peaks(accelerator("cpu"))
