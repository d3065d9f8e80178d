"""Plan a deployment: a model on a device with engine settings. First the memory, then the cache in what is left.

For a given number of bytes the cache plan has the integers of the engine. If the bytes are an estimate, it is computed
three times, for the estimate and for both ends of its band, so that the verdict says what is certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from hybridserve.catalog.accelerators import Accelerator
from hybridserve.catalog.engines import EngineTable, engine_table
from hybridserve.errors import PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.layout import compute_layout, plan_cache
from hybridserve.planning.cache.types import CacheLayout, CachePlan, CacheRequest
from hybridserve.planning.memory.budget import MemoryBudget, MemoryRequest, budget_memory
from hybridserve.planning.memory.lora import LoraSlots
from hybridserve.planning.memory.weights import WeightBytes, count_weights
from hybridserve.planning.models import Architecture
from hybridserve.planning.models.quantization import UNQUANTIZED, Precision
from hybridserve.units import GIB, MIB, format_gib

if TYPE_CHECKING:
    from hybridserve.planning.memory.profile import MemoryProfile

# The CUDA context is created before the engine's first measurement, outside of the memory that the engine may use.
CONTEXT_BYTES = 400 * MIB

FitStatus = Literal["starts", "uncertain", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What to plan. None means the engine's default.

    Attributes:
        model: id, for messages and for the calibration file.
        total_bytes: memory of one device; None uses the catalog's, which a CPU does not have.
        cache: settings of the cache; its `kv_bytes` and `full_cudagraphs` are filled in here.
        served_len: default context of the model, if that is not its longest.
        kv_cache_memory_bytes: given pool of each device.
        precision: how the checkpoint stores its weights.
        weight_bytes: size of the whole checkpoint, from `weight_source`; `weight_confirmed` if it was read there.
        expert_parallel: each rank has whole experts.
        cpu_offload_bytes: weights of each rank that stay in the host's memory.
        lora: adapters that can be loaded.
        full_cudagraphs: capture graphs of whole steps, if graphs are captured; False with mode PIECEWISE.
    """

    model: str
    arch: Architecture
    accelerator: Accelerator
    cache: CacheRequest
    served_len: int | None = None
    total_bytes: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    full_cudagraphs: bool = True
    precision: Precision = UNQUANTIZED
    weight_bytes: int | None = None
    weight_source: str = "published size"
    weight_confirmed: bool = True
    expert_parallel: bool = False
    cpu_offload_bytes: int = 0
    lora: LoraSlots | None = None
    calibration: MemoryProfile | None = None


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """A planned deployment.

    Attributes:
        deployment: as requested, with the engine's defaults filled in.
        cache: for the given, profiled or estimated pool; None if the engine would refuse it.
        low, high: the same for both ends of the band; equal to `cache` if the pool is known.
        refusal: why the engine would not start with the estimate, with its own message where it is known.
        low_refusal: the same at the low end of the band.
        verdict: `starts` at both ends of the band, `refused` at both, else `uncertain`.
    """

    deployment: Deployment
    weights: WeightBytes
    layout: CacheLayout
    budget: MemoryBudget
    cache: CachePlan | None
    low: CachePlan | None
    high: CachePlan | None
    refusal: PlanRefused | None
    low_refusal: PlanRefused | None
    verdict: FitStatus
    warnings: tuple[str, ...]

    @property
    def max_num_seqs(self) -> int:
        seqs = self.deployment.cache.max_num_seqs
        assert seqs is not None
        return seqs

    def running(self, length: int) -> int:
        """Sequences of `length` tokens that run at once: max_num_seqs, or what fits at the low end of the band."""
        cache = self.low or self.cache
        if cache is None:
            return self.max_num_seqs
        return max(1, min(self.max_num_seqs, cache.n_steady(min(length, cache.max_model_len))))

    @property
    def max_num_batched_tokens(self) -> int:
        tokens = self.deployment.max_num_batched_tokens
        assert tokens is not None
        return tokens


def plan_deployment(deployment: Deployment) -> DeploymentPlan:
    """Plan memory and cache of one deployment.

    Raises:
        PlanRefused: no amount of memory makes the settings possible (such as a TP that does not divide groups).
    """
    deployment, weights, layout, budget = _allocate_memory(deployment)
    warning = engine_table(deployment.cache.engine)[1]
    warnings = [warning] if warning else []
    if deployment.accelerator.rocm:
        warnings.append("the estimate of memory is fitted to CUDA start-up logs, not to ROCm: measure a first start")
    middle = low = high = _plan_end(deployment, budget, 0)
    if budget.band:
        low, high = (_plan_end(deployment, budget, offset) for offset in (-budget.band, budget.band))
    verdict: FitStatus = "starts"
    if isinstance(low, PlanRefused):
        verdict = "refused" if isinstance(high, PlanRefused) else "uncertain"
    if isinstance(middle, CachePlan):
        warnings += middle.warnings
        if isinstance(low, PlanRefused):
            warnings.append(f"at the low end of the band the engine would refuse to start: {low.what}")
    return DeploymentPlan(
        deployment=deployment,
        weights=weights,
        layout=layout,
        budget=budget,
        cache=middle if isinstance(middle, CachePlan) else None,
        low=low if isinstance(low, CachePlan) else None,
        high=high if isinstance(high, CachePlan) else None,
        refusal=middle if isinstance(middle, PlanRefused) else None,
        low_refusal=low if isinstance(low, PlanRefused) else None,
        verdict=verdict,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def plan_low_end(deployment: Deployment) -> CachePlan | PlanRefused:
    """The cache at the low end of the band, or why the engine would not start there. A search needs only this.

    Raises:
        PlanRefused: as `plan_deployment`.
    """
    deployment, _, _, budget = _allocate_memory(deployment)
    return _plan_end(deployment, budget, -budget.band)


def _allocate_memory(deployment: Deployment) -> tuple[Deployment, WeightBytes, CacheLayout, MemoryBudget]:
    """The deployment with the engine's defaults, its weights, block layout and memory."""
    table, _ = engine_table(deployment.cache.engine)
    deployment = with_engine_defaults(deployment, table)
    layout = compute_layout(deployment.arch, replace(deployment.cache, kv_bytes=0))
    weights = count_weights(
        deployment.arch,
        dtype=deployment.cache.dtype,
        tensor_parallel_size=deployment.cache.tensor_parallel_size,
        pipeline_parallel_size=deployment.cache.pipeline_parallel_size,
        expert_parallel=deployment.expert_parallel,
        precision=deployment.precision,
        published_bytes=deployment.weight_bytes,
        confirmed=deployment.weight_confirmed,
        source=deployment.weight_source,
    )
    request = _memory_request(deployment, table, weights)
    return deployment, weights, layout, budget_memory(deployment.arch, weights, request, layout.bytes_per_block)


def with_engine_defaults(deployment: Deployment, table: EngineTable) -> Deployment:
    """The deployment with the API server's defaults for scheduler flags that are not set.

    Source: vllm/engine/arg_utils.py, get_batch_defaults.
    """
    cache = deployment.cache
    world = cache.tensor_parallel_size * cache.pipeline_parallel_size
    total = deployment.total_bytes or deployment.accelerator.memory_bytes or 0
    if deployment.accelerator.platform == "cpu":
        row = table.server_defaults_cpu
        seqs, tokens = row.max_num_seqs * world, row.max_num_batched_tokens * world
    else:
        rows = sorted(table.server_defaults, key=lambda row: row.from_gib, reverse=True)
        device = deployment.accelerator
        if device.smallest_server_defaults or device.compute_capability in table.small_default_capabilities:
            rows = rows[-1:]
        row = next(row for row in rows if total >= row.from_gib * GIB)
        seqs, tokens = row.max_num_seqs, row.max_num_batched_tokens
    tokens = deployment.max_num_batched_tokens or tokens
    seqs = cache.max_num_seqs or min(seqs, tokens)
    return replace(
        deployment,
        total_bytes=deployment.total_bytes or deployment.accelerator.memory_bytes,
        gpu_memory_utilization=deployment.gpu_memory_utilization or table.default_gpu_memory_utilization,
        max_num_batched_tokens=tokens,
        cache=replace(
            cache,
            platform=deployment.accelerator.platform,
            max_num_seqs=seqs,
            max_num_batched_tokens=tokens,
            full_cudagraphs=_captures(deployment) and deployment.full_cudagraphs,
        ),
    )


def _captures(deployment: Deployment) -> bool:
    return deployment.accelerator.platform == "cuda" and not deployment.enforce_eager


def with_cache(deployment: Deployment, **changes: object) -> Deployment:
    """The deployment with these fields of its cache request changed."""
    return replace(deployment, cache=replace(deployment.cache, **changes))  # type: ignore[arg-type]


def profiled_settings(deployment: Deployment) -> Mapping[str, Any]:
    """The settings that determine what the engine profiles, under vLLM's names: the key of the calibration file.

    `deployment` must have the engine's defaults filled in, as `DeploymentPlan.deployment` has.
    """
    cache = deployment.cache
    profiled: dict[str, Any] = {
        "engine": cache.engine,
        "dtype": cache.dtype,
        "quantization": deployment.precision.name,
        "gpu_memory_utilization": deployment.gpu_memory_utilization,
        "tensor_parallel_size": cache.tensor_parallel_size,
        "pipeline_parallel_size": cache.pipeline_parallel_size,
        "max_num_seqs": cache.max_num_seqs,
        "max_num_batched_tokens": deployment.max_num_batched_tokens,
        "max_model_len": cache.max_model_len,
        "kv_cache_dtype": cache.kv_cache_dtype,
        "mamba_ssm_cache_dtype": cache.mamba_ssm_cache_dtype,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "enforce_eager": deployment.enforce_eager,
        "num_speculative_tokens": cache.num_speculative_tokens,
    }
    # Rarely set, and left out otherwise, so that the file stays readable.
    if not deployment.full_cudagraphs:
        profiled["full_cudagraphs"] = False
    if cache.use_replayssm:
        profiled |= {"use_replayssm": True, "replayssm_buffer_len": cache.replayssm_buffer_len}
    if deployment.expert_parallel:
        profiled["enable_expert_parallel"] = True
    if deployment.cpu_offload_bytes:
        profiled["cpu_offload_gb"] = deployment.cpu_offload_bytes / GIB
    if deployment.lora is not None:
        profiled |= {"max_loras": deployment.lora.count, "max_lora_rank": deployment.lora.rank}
    if deployment.arch.uses_mtp:
        profiled["speculative_method"] = "mtp"
    elif deployment.arch.draft is not None:
        profiled["draft_parameters"] = deployment.arch.draft.parameters
    return profiled


def _memory_request(deployment: Deployment, table: EngineTable, weights: WeightBytes) -> MemoryRequest:
    cache = deployment.cache
    assert cache.max_num_seqs is not None
    assert deployment.max_num_batched_tokens is not None
    assert deployment.gpu_memory_utilization is not None
    pool = None
    if deployment.calibration is not None:
        pool = deployment.calibration.find(deployment.model, deployment.accelerator.id, profiled_settings(deployment))
    total = deployment.total_bytes
    if total is None:
        # A CPU of unknown memory: with a given pool the total is only used for display.
        if deployment.kv_cache_memory_bytes is None:
            raise PlanRefused(
                "engine.kv_cache_memory_bytes",
                f"{deployment.accelerator.id} has no fixed memory, so the cache pool cannot be estimated",
                "set --kv-bytes (268435456 is 256 MiB), or --memory-gib for one NUMA node",
            )
        total = weights.bytes + deployment.kv_cache_memory_bytes + GIB
    largest = table.max_cudagraph_capture_size["sm100" if deployment.accelerator.major == 10 else "default"]
    capture = min(2 * cache.max_num_seqs * (1 + cache.num_speculative_tokens), largest)
    return MemoryRequest(
        total_bytes=total,
        gpu_memory_utilization=deployment.gpu_memory_utilization,
        max_num_seqs=cache.max_num_seqs,
        max_num_batched_tokens=deployment.max_num_batched_tokens,
        max_capture_size=min(capture, deployment.max_num_batched_tokens) if _captures(deployment) else 0,
        kv_cache_memory_bytes=deployment.kv_cache_memory_bytes,
        profiled_kv_bytes=pool.kv_bytes if pool else None,
        dtype=cache.dtype,
        tensor_parallel_size=cache.tensor_parallel_size,
        pipeline_parallel_size=cache.pipeline_parallel_size,
        cpu_offload_bytes=deployment.cpu_offload_bytes,
        lora=deployment.lora,
        rocm=deployment.accelerator.rocm,
    )


def _plan_end(deployment: Deployment, budget: MemoryBudget, offset: int) -> CachePlan | PlanRefused:
    """The cache plan with `offset` bytes more than the budget, or why the engine would not start."""
    kv = budget.kv + offset
    if kv <= 0:
        return PlanRefused(
            "accelerator.name",
            f"No available memory for the cache blocks: weights {format_gib(budget.weights)}, activations, graphs and "
            f"runtime {format_gib(budget.activation + budget.graphs + budget.runtime)} leave nothing of "
            f"{format_gib(budget.requested)}",
            "use a device with more memory, more devices (engine.tensor_parallel_size), or a quantized checkpoint",
        )
    refusal = _exceeds_device(deployment, budget, offset)
    if refusal is not None:
        return refusal
    try:
        return plan_cache(deployment.arch, replace(deployment.cache, kv_bytes=kv))
    except PlanRefused as error:
        return error


def _exceeds_device(deployment: Deployment, budget: MemoryBudget, offset: int) -> PlanRefused | None:
    """Why the device's memory is too small for the engine's peak while it starts, or None."""
    if deployment.accelerator.platform == "cpu":
        return None
    limit = budget.total - CONTEXT_BYTES
    given = deployment.kv_cache_memory_bytes is not None
    if not given and budget.requested > limit:
        return PlanRefused(
            "engine.gpu_memory_utilization",
            f"free memory on start-up (about {format_gib(limit)} of {format_gib(budget.total)}) is less than desired "
            f"GPU memory utilization ({deployment.gpu_memory_utilization}, {format_gib(budget.requested)})",
            f"set it to at most {limit * 100 // budget.total / 100}",
        )
    # The band covers fixed parts that are not known exactly: if the pool is larger, those are smaller.
    peak = budget.startup_peak - (offset if budget.profiling_cache > budget.kv else 0)
    if peak <= limit:
        return None
    if budget.profiling_cache > budget.kv:
        return PlanRefused(
            "engine.max_num_seqs",
            f"start-up would run out of memory: to measure CUDA graphs, the engine allocates one cache block for each "
            f"of {deployment.cache.max_num_seqs} sequences, {format_gib(budget.profiling_cache)} on top of "
            f"{format_gib(budget.weights)} of weights: {format_gib(peak)} needed, {format_gib(limit)} available",
            "lower --concurrency (max_num_seqs)",
        )
    return PlanRefused(
        "engine.kv_cache_memory_bytes" if given else "engine.gpu_memory_utilization",
        f"start-up would run out of memory: {format_gib(peak)} needed, {format_gib(limit)} available",
        "lower it",
    )
