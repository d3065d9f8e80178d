"""Cost of a million tokens: against the arithmetic by hand, its order, and bad prices."""

from __future__ import annotations

import pytest

from hybridserve.cli.plan_calibration import calibrated_cost
from hybridserve.errors import CatalogError, ConfigError
from hybridserve.planning.cost import bound_cost, measured_cost, parse_prices
from hybridserve.planning.resolve import PlanOptions, plan_settings
from hybridserve.planning.serialize import served_bound
from hybridserve.planning.workload import from_quantiles
from hybridserve.settings import load
from hybridserve.simulator.service_times import load_service_times

WORKLOAD = from_quantiles("1024", "512")
NANO = "nemotron-nano-9b-v2"


def plan(device="h100", *assignments):
    names = [f"model.id={NANO}", f"accelerator.name={device}", *assignments]
    return plan_settings(load(assignments=names, environ={}).settings, PlanOptions(WORKLOAD)).advice.plan


def test_cost_at_the_bound_pays_for_the_whole_time():
    planned = plan()
    cost, limit = bound_cost(planned, WORKLOAD, {"": 3.6}), served_bound(planned, WORKLOAD)
    # 3.6 an hour is 0.001 a second; a request is 512 output tokens.
    seconds = 512 / limit.output_tokens_per_s
    assert cost.requests == pytest.approx(0.001 * seconds * 1e6)
    assert cost.input * 1024 + cost.output * 512 == pytest.approx(cost.requests)
    assert 0 < cost.cached < cost.input
    assert cost.basis == "bound"


def test_every_device_is_paid():
    one, two = (bound_cost(plan("h100", f"engine.tensor_parallel_size={tp}"), WORKLOAD, {"": 1.0}) for tp in (1, 2))
    assert (one.devices, two.devices) == (1, 2)


def test_measured_cost_is_that_of_the_measured_throughput():
    planned = plan()
    limit = served_bound(planned, WORKLOAD)
    batch = planned.max_num_seqs
    measured = measured_cost(planned, {"h100": 2.0}, batch, 1024, 512, limit.output_tokens_per_s / 4)
    least = bound_cost(planned, WORKLOAD, {"h100": 2.0})
    assert measured.requests == pytest.approx(4 * least.requests)
    assert measured.input == pytest.approx(4 * least.input)
    assert measured.output == pytest.approx(4 * least.output)
    assert (measured.cached, measured.basis) == (None, "measured")


def test_unknown_price_or_peaks_give_no_cost():
    assert bound_cost(plan(), WORKLOAD, {"a10g": 1.0}) is None
    generic = plan("generic", "accelerator.memory_gib=48", "accelerator.compute_capability=8.9")
    assert bound_cost(generic, WORKLOAD, {"": 1.0}) is None


def test_calibrated_cost_is_that_of_the_steps_of_a_full_engine():
    times = load_service_times("nano-9b-h200")
    planned = plan("h200")
    # 3.6 an hour is 0.001 a second. The calibrated engine runs 384 sequences, here of 1,280 tokens.
    cost = calibrated_cost(planned, WORKLOAD, {"": 3.6}, times)
    step = 0.005188 + 384 * 0.0001165 + 384 * 1280 * 4.059e-9
    assert (cost["basis"], cost["sequences"]) == ("measured", 384)
    assert cost["input"] == pytest.approx(0.001 * 2.619e-5 * 1e6)
    assert cost["output"] == pytest.approx(0.001 * step / 384 * 1e6)
    assert cost["cached"] == pytest.approx(0.001 * 4.059e-9 * 1e6)
    assert cost["requests"] == pytest.approx(1024 * cost["input"] + 512 * cost["output"])
    least = bound_cost(planned, WORKLOAD, {"": 3.6})
    assert all(cost[name] > getattr(least, name) for name in ("input", "output", "cached", "requests"))
    assert calibrated_cost(planned, WORKLOAD, {"l4": 1.0}, times) is None
    with pytest.raises(ConfigError, match="growing group"):
        calibrated_cost(planned, WORKLOAD, {"": 1.0}, load_service_times("qwen3-8b-h200"))


@pytest.mark.parametrize("text", ["", "free", "-1", "0", "inf", "nan", "a10g=", "=3", "a10g=1,a10g=2"])
def test_bad_price_is_an_error(text):
    with pytest.raises(ConfigError, match="--price-per-hour"):
        parse_prices(text)


def test_price_of_an_unknown_device_is_an_error():
    with pytest.raises(CatalogError, match="not in the catalog"):
        parse_prices("a10g=1,a100=2")
