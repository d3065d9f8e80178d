"""Cost of a million tokens, from the price of a device hour.

At the roofline's bound a request of P prompt and O output tokens takes the device for ``first_token_s / P`` per prompt
token and ``inter_token_s / batch`` per output token. A prompt token that is cached is not computed: the prefill of the
rest reads its keys and values once, ``kv_bytes_per_token / bandwidth``. A real engine is slower, so these are lower
bounds. With a measured throughput the cost is that of the measurement, divided between prompt and output as the bound
divides the time; with measured step times, tokens cost what they add to the steps of a full engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from hybridserve.catalog.accelerators import accelerator
from hybridserve.errors import CatalogError, ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.deployment import DeploymentPlan
from hybridserve.planning.roofline import DevicePeaks, ServedModel, bound, device_peaks
from hybridserve.planning.serialize import served_model
from hybridserve.planning.workload import Workload

Basis = Literal["bound", "measured"]
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
    basis: Basis


@dataclass(frozen=True, slots=True)
class TokenSeconds:
    """Seconds of the device for one token: of a prompt, of an output, or of a prompt that is cached."""

    input: float
    output: float
    cached: float


def parse_prices(text: str) -> dict[str, float]:
    """Prices of a device hour by accelerator id: ``2.5`` for every device (key ``""``), or ``a10g=1.0,h100=2.5``.

    Raises:
        ConfigError: not a positive number, or not such a list.
        CatalogError: a device that is not in the catalog.
    """
    prices: dict[str, float] = {}
    for part in text.split(","):
        name, given, number = (word.strip() for word in part.rpartition("="))
        try:
            price = float(number)
        except ValueError:
            price = 0.0
        if not 0 < price < float("inf") or name in prices or (given and not name):
            raise ConfigError(
                "--price-per-hour", f"{part!r} is not a price", "a positive number, or GPU=PRICE,GPU=PRICE"
            )
        if name:
            name = accelerator(name).id
        prices[name] = price
    return prices


def check_prices(prices: Mapping[str, float], planned: Collection[str]) -> None:
    """A price list may have more devices than are planned; not where a planned one has no price.

    Args:
        planned: accelerator ids.

    Raises:
        ConfigError: a price is of no planned device, and a planned device has none.
    """
    others = sorted(prices.keys() - {"", *planned})
    missing = [] if "" in prices else sorted(set(planned) - prices.keys())
    if prices and others and missing:
        raise ConfigError(
            "--price-per-hour",
            f"{', '.join(missing)} has no price, and {', '.join(others)} is not planned here",
            f"give the price of each: {','.join(f'{name}=PRICE' for name in missing)}",
        )


def bound_cost(plan: DeploymentPlan, workload: Workload, prices: Mapping[str, float]) -> Cost | None:
    """The least cost of the plan for requests of median length; None without a price or the device's peaks."""
    found = _roofline(plan, prices)
    if found is None:
        return None
    price, devices, served, peaks = found
    limit = bound(served, peaks, plan.running(workload.p95), workload.prompt_p50, workload.output_p50)
    seconds = TokenSeconds(
        limit.first_token_s / workload.prompt_p50,
        limit.inter_token_s / limit.batch,
        served.kv_bytes_per_token / peaks.bandwidth,
    )
    return _cost(price, devices, workload, seconds, "bound")


def cost_of(
    plan: DeploymentPlan, workload: Workload, prices: Mapping[str, float], seconds: TokenSeconds, basis: Basis
) -> Cost | None:
    """The cost with these times of all devices; None without a price."""
    deployment = plan.deployment
    price = prices.get(deployment.accelerator.id, prices.get(""))
    parallel = deployment.cache.tensor_parallel_size * deployment.cache.pipeline_parallel_size
    return None if price is None else _cost(price, parallel, workload, seconds, basis)


def _cost(price: float, devices: int, workload: Workload, seconds: TokenSeconds, basis: Basis) -> Cost:
    million_seconds = price * devices / HOUR_S * MILLION
    request = seconds.input * workload.prompt_p50 + seconds.output * workload.output_p50
    return Cost(
        price,
        devices,
        input=million_seconds * seconds.input,
        output=million_seconds * seconds.output,
        cached=million_seconds * seconds.cached,
        requests=million_seconds * request,
        basis=basis,
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
