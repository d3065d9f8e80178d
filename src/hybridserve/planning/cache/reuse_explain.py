"""Which cache settings would have served recorded requests best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hybridserve.catalog.engines import engine_table
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.layout import compute_layout
from hybridserve.planning.cache.reuse import STEP, CacheGrid
from hybridserve.planning.cache.reuse_model import Replay, replay
from hybridserve.planning.cache.reuse_trace import TracedRequest
from hybridserve.planning.deployment import DeploymentPlan, plan_deployment, with_cache
from hybridserve.planning.tradeoffs import MATCH_UNITS


@dataclass(frozen=True, slots=True)
class Option:
    """One combination of settings; None leaves a setting empty.

    Attributes:
        settings: engine arguments by name.
        n_safe: sequences as long as the longest recorded one that run at once without preemption.
    """

    settings: dict[str, Any]
    replay: Replay
    n_safe: int

    @property
    def name(self) -> str:
        """The settings in words."""
        if not self.settings["enable_prefix_caching"]:
            return "prefix caching off"
        chosen = [f"{name} {value}" for name, value in self.settings.items() if type(value) is int]
        return ", ".join(chosen) or "both empty"


@dataclass(frozen=True, slots=True)
class Explained:
    """A trace under every combination of settings. `recorded` are the hit tokens of the server that recorded it."""

    requests: int
    prompt: int
    recorded: int | None
    options: tuple[Option, ...]

    @property
    def recommended(self) -> Option:
        """Most hits; among equals the earlier one, which sets less."""
        return max(self.options, key=lambda option: option.replay.hit)

    @property
    def reusable(self) -> int:
        return max(option.replay.reusable for option in self.options)

    def as_dict(self) -> dict[str, Any]:
        options = [
            {"name": option.name, "settings": option.settings, "n_safe": option.n_safe, "hit": option.replay.hit,
             "share": option.replay.share, **{k: v for k, v in asdict(option.replay).items() if k != "hits"}}
            for option in self.options
        ]  # fmt: skip
        counts = {"requests": self.requests, "prompt_tokens": self.prompt, "reusable_tokens": self.reusable}
        return {
            **counts,
            "recorded_hit_tokens": self.recorded,
            "options": options,
            "recommended": self.recommended.settings,
        }


def explain(trace: Sequence[TracedRequest], plan: DeploymentPlan) -> Explained:
    """Replay a trace on the planned engine with prefix caching off, and on, with each block size and unit.

    Raises:
        ConfigError: the trace was recorded with hashes that do not fit the block; or the model has no state.
    """
    request = plan.deployment.cache
    table, _ = engine_table(request.engine)
    bare = with_cache(
        plan.deployment, block_size=None, prefix_match_unit=None, mamba_cache_mode=None, enable_prefix_caching=True
    )
    layout = compute_layout(bare.arch, bare.cache)
    if layout.mode != "align":
        raise ConfigError("model.id", f"{plan.deployment.model} keeps no state", "use the engine's defaults")
    if trace[0].step != STEP or layout.block_size % STEP:
        raise ConfigError("TRACE", f"has hashes of {trace[0].step} tokens", f"record with a unit of {STEP} or 32")
    longest = max(item.total for item in trace)
    options = [_option(trace, plan, {"enable_prefix_caching": False}, longest)]
    reset = table.resets_block_size(request.platform)
    units = [None, *(unit for unit in MATCH_UNITS if layout.block_size % unit == 0)]
    for size in (None, layout.block_size) if reset else (None,):
        for unit in units:
            chosen = {"enable_prefix_caching": True, "block_size": size, "prefix_match_unit": unit}
            options.append(_option(trace, plan, chosen, longest))
    hits = [item.hit for item in trace]
    recorded = sum(hit for hit in hits if hit is not None) if None not in hits else None
    return Explained(len(trace), sum(item.prompt for item in trace), recorded, tuple(options))


def _option(trace: Sequence[TracedRequest], plan: DeploymentPlan, settings: dict[str, Any], longest: int) -> Option:
    cleared = {"block_size": None, "prefix_match_unit": None, "mamba_cache_mode": None}
    planned = plan_deployment(with_cache(plan.deployment, **{**cleared, **settings}))
    cache = planned.low or planned.cache
    if cache is None:
        assert planned.refusal is not None
        raise PlanRefused(planned.refusal.where, planned.refusal.what, planned.refusal.fix)
    layout, request = cache.layout, planned.deployment.cache
    table, _ = engine_table(request.engine)
    caching = settings["enable_prefix_caching"]
    block = layout.block_size
    reset = request.block_size is None and table.resets_block_size(request.platform)
    grid = CacheGrid(
        block=block,
        unit=request.prefix_match_unit or block if caching else STEP,
        split=table.default_block_size[request.platform] if reset and caching else block,
        budget=planned.max_num_batched_tokens,
        attention_groups=layout.attention_groups,
        state_groups=layout.state_groups,
        blocks=cache.num_blocks - 1,
    )
    n_safe = cache.n_safe(min(longest, cache.max_model_len))
    return Option(settings, replay(trace, grid, caching), n_safe)
