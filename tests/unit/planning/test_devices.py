"""Devices: compute capability, ROCm, and a device that is only described."""

from __future__ import annotations

import pytest

from hybridserve.errors import ConfigError, HybridServeError, PlanRefused
from hybridserve.planning.resolve import ResolvedPlan, engine_args, plan_settings
from hybridserve.settings import load
from hybridserve.units import GIB

A, X, S = "accelerator", "engine.extra_args", "engine.speculative_config"


def plan(device: str, *assignments: str, model: str = "nemotron-3-nano-4b") -> ResolvedPlan:
    names = [f"model.id={model}", "accelerator.name=" + device, *assignments]
    return plan_settings(load(assignments=names, environ={}).settings)


@pytest.mark.parametrize(("device", "dtype"), [("t4", "float16"), ("a10g", "bfloat16")])
def test_bfloat16_becomes_float16_before_compute_capability_8(device, dtype):
    planned = plan(device)
    assert engine_args(planned.settings, planned)["dtype"] == dtype
    assert planned.advice.plan.weights.bytes == plan("l4").advice.plan.weights.bytes


def test_generic_device_is_planned_like_the_one_it_describes():
    described = plan("generic", f"{A}.memory_gib=22.0576171875", f"{A}.compute_capability=8.6").advice.plan
    named = plan("a10g").advice.plan
    assert described.budget == named.budget
    assert described.cache == named.cache


def test_a_generic_device_without_its_facts_names_both():
    with pytest.raises(ConfigError) as caught:
        plan("generic")
    assert [error.where for error in (caught.value, *caught.value.others)] == [
        f"{A}.memory_gib",
        f"{A}.compute_capability",
    ]
    example = plan("generic", f"{A}.memory_gib=24", f"{A}.compute_capability=8.6")
    assert example.advice.plan.low is not None


def test_estimate_on_rocm_has_a_wider_band_and_says_so():
    amd = plan("mi300x").advice.plan
    experts = plan("mi300x", model="granite-4.0-h-small").advice.plan
    assert amd.budget.band > GIB
    assert any("ROCm" in warning for warning in amd.warnings)
    # Granite 4.0 H small took 78.43 GiB of weights on ROCm (forum dump, public file 57002958791).
    assert experts.weights.bytes + experts.budget.band > 78.43 * GIB


@pytest.mark.parametrize(
    ("device", "assignments", "error", "where"),
    [
        ("v100", (), PlanRefused, f"{A}.name"),
        ("t4", ("engine.dtype=bfloat16",), PlanRefused, "engine.dtype"),
        ("generic", (), ConfigError, f"{A}.memory_gib"),
        ("generic", (f"{A}.memory_gib=24",), ConfigError, f"{A}.compute_capability"),
        ("generic", (f"{A}.memory_gib=24", f"{A}.compute_capability=7.0"), PlanRefused, f"{A}.name"),
        ("generic", (f"{A}.memory_gib=24", f"{A}.compute_capability=sm86"), ConfigError, f"{A}.compute_capability"),
        ("h100", (f"{A}.compute_capability=9.0",), ConfigError, f"{A}.compute_capability"),
        ("a10g", (f"{X}.use_replayssm=true", f"{X}.mamba_backend=flashinfer"), ConfigError, f"{X}.mamba_backend"),
        ("a10g", (f"{X}.data_parallel_size=2",), ConfigError, f"{X}.data_parallel_size"),
        ("a10g", (f"{X}.decode_context_parallel_size=2",), ConfigError, f"{X}.decode_context_parallel_size"),
        ("a10g", (f"{X}.data_parallel_size=two",), ConfigError, f"{X}.data_parallel_size"),
        ("a10g", (f"{X}.enable_lora=true", f"{X}.max_loras=0"), ConfigError, f"{X}.max_loras"),
        ("a10g", (f"{X}.cpu_offload_gb=much",), ConfigError, f"{X}.cpu_offload_gb"),
        ("a10g", (f"{X}.cpu_offload_gb=-1.0",), ConfigError, f"{X}.cpu_offload_gb"),
        ("a10g", (f"{X}.cpu_offload_gb=.nan",), ConfigError, f"{X}.cpu_offload_gb"),
        ("a10g", (f"{S}={{method: ngram}}",), ConfigError, f"{S}.num_speculative_tokens"),
        ("a10g", (f"{S}={{method: mtp, num_speculative_tokens: 0}}",), ConfigError, f"{S}.num_speculative_tokens"),
        ("a10g", ("engine.tensor_parallel_size=3",), PlanRefused, "engine.tensor_parallel_size"),
        ("a10g", ("engine.tensor_parallel_size=16",), PlanRefused, "engine.tensor_parallel_size"),
        ("a10g", ("engine.pipeline_parallel_size=1000",), PlanRefused, "engine.pipeline_parallel_size"),
    ],
)
def test_impossible_settings_name_the_field_and_what_is_allowed(device, assignments, error, where):
    with pytest.raises(error) as raised:
        plan(device, *assignments)
    assert isinstance(raised.value, HybridServeError)
    assert raised.value.where == where
    assert raised.value.what
    assert raised.value.fix
