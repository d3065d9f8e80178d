"""Inputs of `hybridserve simulate` that follow from settings: the engine, the scaling settings, and the traffic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridserve.cli.options import given_workload, with_device
from hybridserve.deployment.resolve import scaling_spec
from hybridserve.errors import CatalogError, ConfigError
from hybridserve.planning.deployment import DeploymentPlan
from hybridserve.planning.resolve import ResolvedPlan, plan_settings
from hybridserve.planning.roofline import decode_step, device_peaks, prefill
from hybridserve.planning.serialize import served_model
from hybridserve.planning.workload import Workload
from hybridserve.settings import load
from hybridserve.settings.scaling import ScalingSection
from hybridserve.simulator.service_times import (
    CacheBlocks,
    EngineLimits,
    ServiceTimes,
    StepTime,
    built_in,
    load_service_times,
)
from hybridserve.simulator.traffic import TRAFFIC_PATTERNS, Arrival, Lengths, read_trace

# Before the engine: proxy, HTTP and tokenizer, as in the packaged bounds.
REQUEST_OVERHEAD_S = 0.01
# Without settings.
DEFAULT_CALIBRATION = "nano-9b-a10g"
DEFAULTS: dict[str, Any] = {
    "min_replicas": 1, "max_replicas": 100, "ttft_s": 2.0, "ttft_per_prompt_token_s": 0.001, "inter_token_s": 0.1
}  # fmt: skip
FLAGS = {"start_up_s": "--start-up", "ttft_s": "--ttft", "inter_token_s": "--inter-token"}


def scaling_settings(
    config: Path | None, assign: Sequence[str], given: Mapping[str, Any]
) -> tuple[ScalingSection, ResolvedPlan | None]:
    """Section scaling of the settings with the options of the command line, and the plan as `serve` makes it.

    Without settings: the defaults of this command, and no plan.

    Raises:
        ConfigError: invalid settings or options.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if config is None and not assign:
        return _section(DEFAULTS | asked), None
    settings = with_device(load(config, list(assign)))
    scaling = _section(settings.scaling.model_dump() | asked)
    planned = plan_settings(settings.model_copy(update={"scaling": scaling}))
    return scaling_spec(planned), planned


def _section(values: Mapping[str, Any]) -> ScalingSection:
    low, high = values["min_replicas"], values["max_replicas"]
    if not 0 <= low <= high or high < 1:
        raise ConfigError("--min/--max", f"bounds {low} to {high} are impossible", "use 0 <= min <= max and max >= 1")
    if not 0.5 <= (share := values.get("attainment", 0.99)) < 1:
        raise ConfigError("--attainment", f"{share:g} is not a share", "use 0.5 or more, and less than 1")
    if not 0 <= (slope := values["ttft_per_prompt_token_s"] * 1000) < float("inf"):
        raise ConfigError("--ttft-per-1000", f"{slope:g} is negative or not finite", "use 0 or more")
    for name, flag in FLAGS.items():
        value = values.get(name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(flag, f"{value:g} is not positive", "use a number above 0")
    return ScalingSection.model_validate(dict(values))


def service_times(planned: ResolvedPlan | None, calibration: str | None, start_up_s: float | None) -> ServiceTimes:
    """Service times of a replica: of the planned engine, or without a plan those of the calibration.

    Raises:
        ConfigError: the calibration has other blocks than the plan, or the device has no known peaks.
    """
    if planned is None:
        times = load_service_times(calibration or DEFAULT_CALIBRATION)
    else:
        times = _planned_times(planned, calibration)
    return times if start_up_s is None else times.model_copy(update={"start_up_s": start_up_s})


def _planned_times(planned: ResolvedPlan, calibration: str | None) -> ServiceTimes:
    """The planned engine with the steps of a calibration, or with bounds of the device's data sheet."""
    plan, capacity = planned.advice.plan, scaling_spec(planned).capacity
    engine = EngineLimits(
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        align_prefill=plan.layout.mode == "align",
    )
    cache = CacheBlocks(
        usable_blocks=capacity.usable_blocks,
        block_size=capacity.block_size,
        state_blocks=capacity.state_blocks,
        growing_groups=capacity.growing_groups,
    )
    if calibration is None:
        return ServiceTimes(
            name=f"{planned.model.id} on {plan.deployment.accelerator.id} as planned",
            kind="bound",
            source="peaks of the data sheet",
            step=_bound_step(plan),
            engine=engine,
            cache=cache,
            request_overhead_s=REQUEST_OVERHEAD_S,
            start_up_s=planned.settings.scaling.start_up_s,
        )
    times = load_service_times(calibration)
    times.require_blocks(cache.block_size, cache.growing_groups)
    engine = engine.model_copy(update={"prefix_match_unit": times.engine.prefix_match_unit})
    return times.model_copy(update={"engine": engine, "cache": cache})


def _bound_step(plan: DeploymentPlan) -> StepTime:
    """The step times that the device's bandwidth and FLOPs allow at best."""
    deployment = plan.deployment
    try:
        device = device_peaks(deployment.accelerator, deployment.precision.compute)
    except CatalogError as error:
        known = ", ".join(built_in())
        raise ConfigError(
            "--calibration",
            f"is missing: {error.what}",
            f"give --calibration with one of {known}, or a file of `make calibrate`",
        ) from None
    served = served_model(plan)
    sequences, tokens = plan.max_num_seqs, plan.max_num_batched_tokens
    per_sequence = 2 * served.state_bytes / device.bandwidth
    full = device.seconds(decode_step(served, sequences, 0))
    return StepTime(
        fixed_s=max(full - sequences * per_sequence, 1e-6),
        per_sequence_s=per_sequence,
        per_context_token_s=served.kv_bytes_per_token / device.bandwidth,
        per_prompt_token_s=prefill(served, tokens).flops / device.flops / tokens,
    )


def traffic(
    workload: str | None,
    trace: Path | None,
    *,
    rate: float | None,
    scale: float | None,
    prompt: str | None,
    output: str | None,
    context: int | None,
    seed: int,
) -> tuple[str, list[Arrival], Mapping[str, int]]:
    """The name of the traffic and its requests: of a trace, or of a pattern with this mean rate and these lengths.

    The third part has the numbers of requests of the trace that are left out, by reason.

    Raises:
        ConfigError: options that contradict each other, or lengths that do not fit into `context` tokens.
    """
    shaping = {
        "--workload": workload, "--rate": rate, "--scale": scale, "--prompt": prompt, "--output": output
    }  # fmt: skip
    if trace is not None:
        for flag, value in shaping.items():
            if value is not None:
                raise ConfigError(flag, "is for a traffic pattern, and --trace has its own requests", f"remove {flag}")
        left_out: Counter[str] = Counter()
        return trace.name, read_trace(trace, left_out), left_out
    if rate is not None and scale is not None:
        raise ConfigError("--scale", "--rate is given as well", "remove one of them")
    for flag, value in (("--scale", scale), ("--rate", rate)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(flag, f"{value:g} is not positive", "use a number above 0")
    name = workload or "diurnal"
    if (pattern := TRAFFIC_PATTERNS.get(name)) is None:
        raise ConfigError(
            "--workload", f"there is no traffic pattern {name!r}", f"use one of {', '.join(TRAFFIC_PATTERNS)}"
        )
    if prompt is not None or output is not None:
        lengths = _lengths(given_workload(prompt, output), context)
        pattern = replace(pattern, mix=((1.0, lengths),))
    factor = scale or 1.0 if rate is None else rate / pattern.mean_rate()
    arrivals = pattern.arrivals(seed, factor)
    if not arrivals:
        flag, value = ("--scale", scale) if rate is None else ("--rate", rate)
        raise ConfigError(flag, f"{value or 1:g} brings no request in {pattern.seconds:g} s", "use a higher one")
    return name, arrivals, {}


def _lengths(workload: Workload, context: int | None) -> Lengths:
    if context is not None and workload.p95 > context:
        raise ConfigError(
            "--prompt/--output",
            f"{workload.p95:,} tokens at p95 are more than engine.max_model_len, {context:,}",
            "give shorter requests, or raise engine.max_model_len",
        )
    prompt, output = (workload.prompt_p50, workload.prompt_p95), (workload.output_p50, workload.output_p95)
    return Lengths.from_quantiles(prompt, output, context)
