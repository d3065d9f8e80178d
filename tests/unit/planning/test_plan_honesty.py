"""What a plan says about its own input: slips that it refuses, and what it assumes, converts or does not count."""

from __future__ import annotations

import pytest

from hybridserve.catalog.accelerators import accelerators
from hybridserve.cli.plan_list import show
from hybridserve.errors import ConfigError
from hybridserve.planning.cost import check_prices, parse_prices
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.serialize import report
from hybridserve.planning.workload import ASSUMED, Workload, from_quantiles
from hybridserve.settings import load

NANO = ("model.id=nemotron-nano-9b-v2", "accelerator.name=l40s")
GENERIC = ("model.id=qwen3-8b", "accelerator.name=generic", "accelerator.memory_gib=24")


def reported(*assignments: str, workload: Workload = ASSUMED) -> dict:
    return report(plan_settings(load(assignments=assignments, environ={}).settings, PlanOptions(workload)))


def warned(plan: dict, words: str) -> bool:
    return any(words in warning for warning in plan["warnings"])


@pytest.mark.parametrize(("given", "meant"), [("86", "8.6"), ("120", "12.0"), ("999", None)])
def test_capability_without_its_point_is_refused(given: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        reported(*GENERIC, f"accelerator.compute_capability={given}")
    assert caught.value.where == "accelerator.compute_capability"
    assert given in caught.value.what
    assert (f"did you mean {meant}?" if meant else "at most") in caught.value.fix


def test_every_capability_of_the_catalog_is_accepted() -> None:
    for device in accelerators():
        if device.has_kernels and device.platform == "cuda" and not device.rocm:
            reported(*GENERIC, f"accelerator.compute_capability={device.compute_capability}")


def test_price_of_another_device_is_refused_where_one_is_missing() -> None:
    with pytest.raises(ConfigError, match="a10g has no price, and a10 is not planned"):
        check_prices(parse_prices("a10=1"), {"a10g"})
    for prices, planned in (("A10G=1,h100=2", {"a10g"}), ("1", {"a10g"}), ("a10g=1", {"a10g", "l40s"})):
        check_prices(parse_prices(prices), planned)


def test_memory_above_the_device_is_marked() -> None:
    for given, exceeded in (("48", True), ("44.34", False)):
        plan = reported(*NANO, f"accelerator.memory_gib={given}")
        assert plan["accelerator"]["memory_exceeded"] is exceeded
        assert warned(plan, "give usable memory") is exceeded


def test_assumed_lengths_above_a_given_context_are_warned_about() -> None:
    assert warned(reported(*NANO, "engine.max_model_len=10"), "assumed: set --prompt and --output")
    # The model's own limit, which nobody set.
    assert not warned(reported("model.id=mamba-2.8b", "accelerator.name=l40s"), "longer than max_model_len")
    short = from_quantiles("4", "4")
    assert not warned(reported(*NANO, "engine.max_model_len=10", workload=short), "longer than max_model_len")


def test_converted_weights_are_said_to_be_converted() -> None:
    converts = 'engine.extra_args={"quantization": "fp8"}'
    plan, stored = reported(*NANO, converts), reported(*NANO)
    assert "converts them to fp8" in plan["memory"]["weights_source"]
    assert (plan["flags"][0]["name"], plan["flags"][0]["value"]) == ("quantization", "fp8")
    sizes = [f"{each['memory']['weights'] / (1 << 30):.2f} GiB" for each in (plan, stored)]
    assert plan["flags"][0]["gain"] == f"{sizes[0]} of weights instead of {sizes[1]}"
    assert plan["engine_args"]["quantization"] == "fp8"
    assert warned(plan, "engine.online-quantization")
    assert not warned(stored, "engine.online-quantization")
    checkpoint = reported("model.id=nemotron-nano-9b-v2-fp8", "accelerator.name=l40s")
    assert "convert" not in checkpoint["memory"]["weights_source"]
    assert "quantization" not in [flag["name"] for flag in checkpoint["flags"]]


def test_language_part_names_what_is_not_counted() -> None:
    plan = reported("model.id=nemotron-nano-12b-v2-vl-fp8", "accelerator.name=h100")
    assert plan["engine_args"]["language_model_only"]
    assert warned(plan, "not counted: the encoders of images")
    assert not warned(reported(*NANO), "encoders")


def test_context_says_why_it_is_below_what_fits() -> None:
    def reason(*assignments: str) -> str:
        return str(next(flag["reason"] for flag in reported(*assignments)["flags"] if flag["name"] == "max_model_len"))

    assert "which would take nearly the whole cache" in reason(*GENERIC, "accelerator.compute_capability=8.6")
    small = ("model.id=qwen3-8b", "accelerator.name=a10g")
    assert "--goal context" in reason(*small)
    assert "--goal context" not in reason(*small, "engine.gpu_memory_utilization=0.9")


def test_pool_of_a_cpu_is_not_said_to_be_given() -> None:
    demo = ("model.id=demo", "accelerator.name=cpu")
    assert reported(*demo)["memory"]["pool_source"] == "kv_cache_memory_bytes, which the plan sets"
    given = reported(*demo, "engine.kv_cache_memory_bytes=268435456")
    assert given["memory"]["pool_source"] == "kv_cache_memory_bytes is given"


def test_list_marks_devices_that_no_plan_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    show(as_json=False)
    marked = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "no kernels" in line]
    assert marked == [each.id for each in accelerators() if each.compute_capability and not each.has_kernels]
    assert marked


@pytest.mark.parametrize(("tokens", "told"), [(100, True), (1311, True), (1312, False)])
def test_a_step_with_fewer_tokens_than_a_block_is_a_warning(tokens: int, told: bool) -> None:
    plan = reported(*NANO, f"engine.max_num_batched_tokens={tokens}", "engine.max_num_seqs=8")
    assert warned(plan, "engine.block-over-budget") is told
    assert not told or warned(plan, "set at least 1320.")
