"""Recommended engine flags, and what the plan says about those of the scheduler and the context."""

from __future__ import annotations

from typing import Literal

from hybridserve.catalog.engines import EngineTable
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.deployment import (
    Deployment,
    DeploymentPlan,
    plan_deployment,
    with_cache,
    with_engine_defaults,
)
from hybridserve.planning.workload import Workload
from hybridserve.units import GIB, counted

Goal = Literal["throughput", "latency", "context"]

# The longest context is kept below the last token that fits: near it, aligned prefill may loop (vllm#52520).
CONTEXT_SHARE = 0.95
# Share of blocks kept free on admission. It reduced preemptions by a third where decoding outgrew the pool.
WATERMARK = 0.05


@dataclass(frozen=True, slots=True)
class Flag:
    """One engine argument to set, under vLLM's name."""

    name: str
    value: int | float | str | bool
    reason: str
    gain: str


def scheduler_flags(
    asked: Deployment, plan: DeploymentPlan, workload: Workload, goal: Goal, table: EngineTable
) -> list[Flag]:
    """The flags of the scheduler and the context in a plan that starts, each with its reason and gain.

    Args:
        asked: with the user's settings alone.
    """
    assert plan.low is not None
    low, length = plan.low, min(workload.p95, plan.low.max_model_len)
    default = with_engine_defaults(asked, table)
    flags = [
        Flag(
            "max_model_len",
            low.max_model_len,
            _length_reason(asked, plan, goal),
            f"{counted(low.n_safe(low.max_model_len), 'request')} of that length at once without preemption",
        )
    ]
    safe, steady = low.n_safe(length), low.n_steady(length)
    if asked.cache.max_num_seqs is not None:
        reason = "set by you"
    elif plan.deployment.accelerator.platform == "cpu":
        reason = f"{counted(steady, 'request')} of {length:,} tokens fit, but each step is slow on a CPU"
    elif goal == "context" and plan.max_num_seqs < steady:
        reason = "few sequences leave the most memory for the cache of one long context"
    else:
        latency, never = goal == "latency", plan.max_num_seqs <= safe
        most = safe if latency else steady
        what = "fit, without preemption" if never else "fit, with rare preemptions"
        what = "never preempt each other" if latency else what
        reason = f"{counted(safe if never else most, 'request')} of {length:,} tokens {what}"
        if plan.max_num_seqs == default.cache.max_num_seqs:
            reason += "; the engine's default is kept"
        elif plan.max_num_seqs < most and plan.max_num_seqs % 8 == 0:
            reason += "; decode batches are captured in multiples of 8"
    gain = _seqs_gain(plan, default)
    if asked.cache.max_num_seqs is not None:
        gain = f"{counted(steady, 'request')} of {length:,} tokens fit, {safe:,} of them without preemption"
    flags.append(Flag("max_num_seqs", plan.max_num_seqs, reason, gain))

    flags.append(_step_tokens(asked, plan, default))
    if goal == "throughput" and plan.max_num_seqs > safe and plan.deployment.arch.hybrid:
        flags.append(
            Flag(
                "watermark",
                WATERMARK,
                f"{plan.max_num_seqs} sequences are more than the {safe} that never preempt each other",
                "free blocks for growing sequences: fewer preemptions",
            )
        )
    return flags


def _step_tokens(asked: Deployment, plan: DeploymentPlan, default: Deployment) -> Flag:
    """The tokens of one step. In mode align a prefill chunk is whole blocks, beside one token per decoding sequence."""
    tokens, seqs, block = plan.max_num_batched_tokens, plan.max_num_seqs, plan.layout.block_size
    given = asked.max_num_batched_tokens is not None
    if plan.layout.mode != "align":
        reason = "set by you" if given else "the engine's default, pinned"
        gain = "larger prefill chunks would raise the inter-token latency of other requests"
        return Flag("max_num_batched_tokens", tokens, reason, gain)
    blocks = max(0, tokens - seqs) // block
    if given:
        gain = f"no whole block of {block:,} tokens in a step"
        if blocks:
            gain = f"{counted(blocks, 'whole block')} of {block:,} tokens in a step, beside one token per sequence"
            rest = tokens - seqs - blocks * block
            gain += f"; the other {rest:,} tokens make none" if rest else ""
        return Flag("max_num_batched_tokens", tokens, "set by you", gain)
    usual = default.max_num_batched_tokens or tokens
    idle = usual % block / usual if usual > block else 0.0
    gain = f"the default {usual:,} would leave {idle:.0%} of each step unused" if idle else "a whole block in each step"
    reason = f"{blocks} x {block:,} plus one token per sequence: prefill chunks are whole blocks"
    return Flag("max_num_batched_tokens", tokens, reason, gain)


def _length_reason(asked: Deployment, plan: DeploymentPlan, goal: Goal) -> str:
    assert plan.low is not None
    own, longest = plan.deployment.arch.max_position_embeddings, plan.low.longest_context
    if asked.cache.max_model_len is not None:
        return "set by you"
    if plan.low.max_model_len in (own, plan.deployment.served_len):
        return "the model's default context"
    if longest == own:
        return f"{CONTEXT_SHARE:.0%} of the model's {own:,} tokens, which would take nearly the whole cache"
    more = goal != "context" and asked.gpu_memory_utilization is None and asked.kv_cache_memory_bytes is None
    hint = ", and more of them fit with --goal context" if more and asked.accelerator.platform == "cuda" else ""
    return f"{CONTEXT_SHARE:.0%} of the {longest:,} tokens that fit; the model supports {own:,}{hint}"


def _seqs_gain(plan: DeploymentPlan, default: Deployment) -> str:
    usual = default.cache.max_num_seqs
    if usual is None or usual == plan.max_num_seqs:
        return "the engine's default fits and is kept"
    other = plan_deployment(with_cache(plan.deployment, max_num_seqs=usual))
    if other.refusal is not None:
        return f"the default {usual} would not start: {other.refusal.what.split(':')[0]}"
    freed = (plan.budget.kv - other.budget.kv) / GIB
    return f"{freed:.2f} GiB more for the cache than with {usual}" if freed >= 0.01 else f"instead of {usual}"
