"""When drafts pay: computed by hand, and in the limits of memory and compute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridserve.planning.deployment import plan_deployment
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.roofline import DevicePeaks, ServedModel
from hybridserve.planning.serialize import report, served_model
from hybridserve.planning.speculation import LARGEST_BATCH, break_even, tokens_per_step
from hybridserve.settings import load
from hybridserve.units import GIB
from support.planned_models import NANO_9B, QWEN3_8B, deployment_of


@pytest.fixture(scope="module")
def dense() -> ServedModel:
    return served_model(plan_deployment(deployment_of(QWEN3_8B, "l40s", kv_cache_memory_bytes=8 * GIB)))


def paying(served: ServedModel, device: DevicePeaks, drafts: int) -> list[tuple[int | None, int | None]]:
    return [(row.first, row.last) for row in break_even(served, device, drafts, context=1)]


def test_tokens_per_step() -> None:
    assert tokens_per_step(0.5, 3) == 1.875
    assert tokens_per_step(0.9, 0) == 1


@pytest.mark.parametrize(("drafts", "accepted"), [(1, 0.5), (3, 0.9)])
def test_batch_where_compute_takes_over_is_the_break_even(dense: ServedModel, drafts: int, accepted: float) -> None:
    # The weights take 1 s to read and a token 1/100 s to compute: a step of B sequences takes max(1, B / 100) s without
    # drafts and max(1, B * (k + 1) / 100) s with them. The break-even is where the latter is tokens_per_step.
    weights = (8_190_735_360 - 151_936 * 4096) * 2
    tiny = replace(dense, kv_bytes_per_token=0)
    device = DevicePeaks(weights, 100 * (2.0 * (8_190_735_360 - 151_936 * 4096) + 4.0 * 36 * 32 * 128))
    expected = 100 * tokens_per_step(accepted, drafts) / (drafts + 1)
    found = dict(zip((0.5, 0.7, 0.9), paying(tiny, device, drafts), strict=True))[accepted]
    assert found[0] == 1
    assert found[1] == pytest.approx(expected, rel=0.04)


def test_without_compute_limit_drafts_always_pay_and_without_memory_limit_never(dense: ServedModel) -> None:
    assert paying(dense, DevicePeaks(1e12, 1e30), 3) == [(1, LARGEST_BATCH)] * 3
    assert paying(dense, DevicePeaks(1e30, 1e12), 3) == [(None, None)] * 3


def test_states_that_are_written_for_each_draft_count() -> None:
    nano = served_model(plan_deployment(deployment_of(NANO_9B, "l40s", kv_cache_memory_bytes=8 * GIB)))
    device = DevicePeaks(1e12, 1e30)
    # Far from the weights a step moves only states: 2 without drafts and 5 with three of them.
    only_states = replace(nano, weights=replace(nano.weights, bytes=131_072 * 4480 * 2), kv_bytes_per_token=0)
    assert tokens_per_step(0.5, 3) < 5 / 2 < tokens_per_step(0.7, 3)
    assert paying(only_states, device, 3) == [(None, None), (1, LARGEST_BATCH), (1, LARGEST_BATCH)]


def test_plan_reports_it_for_the_mtp_module_of_a_mixture_of_experts() -> None:
    model = ["model.id=nemotron-3-super-120b-a12b", "accelerator.name=h200", "engine.tensor_parallel_size=4"]
    drafts = 'engine.speculative_config={"method": "mtp", "num_speculative_tokens": 3}'
    without = report(plan_settings(load(None, model).settings, PlanOptions()))
    found = report(plan_settings(load(None, [*model, drafts]).settings, PlanOptions()))["drafts"]
    assert without["drafts"] is None
    assert found["tokens"] == 3
    # A step of few sequences reads more experts when it checks drafts.
    assert found["pays"][0]["first"] > 1
