"""Cost of a million tokens, from the price of a device hour.

At the roofline's bound a request of P prompt and O output tokens takes the device for ``first_token_s / P`` per prompt
token and ``inter_token_s / batch`` per output token. A prompt token that is cached is not computed: the prefill of the
rest reads its keys and values once, ``kv_bytes_per_token / bandwidth``. A real engine is slower, so these are lower
bounds. With a measured throughput the cost is that of the measurement, divided between prompt and output as the bound
divides the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hybridserve.errors import CatalogError, ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.deployment import DeploymentPlan
from hybridserve.planning.roofline import DevicePeaks, ServedModel, bound, device_peaks
from hybridserve.planning.serialize import served_model
from hybridserve.planning.workload import Workload

MILLION = 1e6
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Prices in the currency of the device hour.

    Attributes:
        devices: all of them are paid.
        input, output, cached: of a million tokens; cached is None if it was not measured.
        requests: of a million requests of the planned lengths without cached tokens.
        basis: `bound` is a lower bound, `measured` was observed.
    """

    price_per_hour: float
    devices: int
    input: float
    output: float
    cached: float | None
    requests: float
    basis: Literal["bound", "measured"]


def parse_prices(text: str) -> dict[str, float]:
    """Prices of a device hour by accelerator id: ``2.5`` for every device (key ``""``), or ``a10g=1.0,h100=2.5``.

    Raises:
        ConfigError: not a positive number, or not such a list.
    """
    prices: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = 0.0
        if not 0 < price < float("inf") or name.strip() in prices:
            raise ConfigError(
                "--price-per-hour", f"{part!r} is not a price", "a positive number, or GPU=PRICE,GPU=PRICE"
            )
        prices[name.strip()] = price
    return prices


def bound_cost(plan: DeploymentPlan, workload: Workload, prices: Mapping[str, float]) -> Cost | None:
    """The least cost of the plan for requests of median length; None without a price or the device's peaks."""
    found = _roofline(plan, prices)
    if found is None:
        return None
    price, devices, served, peaks = found
    limit = bound(served, peaks, plan.max_num_seqs, workload.prompt_p50, workload.output_p50)
    second = price * devices / HOUR_S
    per_input, per_output = limit.first_token_s / workload.prompt_p50, limit.inter_token_s / limit.batch
    return Cost(
        price,
        devices,
        input=second * per_input * MILLION,
        output=second * per_output * MILLION,
        cached=second * served.kv_bytes_per_token / peaks.bandwidth * MILLION,
        requests=second * (per_input * workload.prompt_p50 + per_output * workload.output_p50) * MILLION,
        basis="bound",
    )


def measured_cost(
    plan: DeploymentPlan, prices: Mapping[str, float], batch: int, prompt: int, output: int, tokens_per_s: float
) -> Cost | None:
    """The cost at a measured output throughput with `batch` running requests of these lengths."""
    found = _roofline(plan, prices)
    if found is None or tokens_per_s <= 0 or batch < 1:
        return None
    price, devices, served, peaks = found
    prefill = bound(served, peaks, batch, prompt, output).prefill_share
    request = price * devices / HOUR_S * output / tokens_per_s
    return Cost(
        price,
        devices,
        input=request * prefill / prompt * MILLION,
        output=request * (1 - prefill) / output * MILLION,
        cached=None,
        requests=request * MILLION,
        basis="measured",
    )


def cost_data(cost: Cost | None) -> dict[str, Any] | None:
    """The cost for ``--json``."""
    return None if cost is None else {name: getattr(cost, name) for name in Cost.__dataclass_fields__}


def _roofline(plan: DeploymentPlan, prices: Mapping[str, float]) -> tuple[float, int, ServedModel, DevicePeaks] | None:
    deployment = plan.deployment
    price = prices.get(deployment.accelerator.id, prices.get(""))
    if price is None or deployment.cache.pipeline_parallel_size > 1:
        return None
    try:
        peaks = device_peaks(deployment.accelerator, deployment.precision.compute)
    except CatalogError:
        return None
    return price, deployment.cache.tensor_parallel_size, served_model(plan), peaks
