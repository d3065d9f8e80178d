"""Tensor and pipeline parallelism: which sizes a model supports, and the layers of each stage.

The engine checks divisibility while it builds the layers; the planner does so before the start.
"""

from __future__ import annotations

from hybridserve.errors import PlanRefused
from hybridserve.planning.models.architecture import (
    Architecture,
    GatedDeltaNet,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    ShortConv,
)

# Families whose vLLM classes refuse more devices than experts.
AT_MOST_ONE_DEVICE_PER_EXPERT = ("qwen3_next", "transformer", "lfm2")


def check_tensor_parallel(arch: Architecture, tp: int, *, replayssm: bool = False) -> None:
    """Raise `PlanRefused` with the engine's message if `tp` devices cannot share the layers."""
    if tp < 1:
        raise PlanRefused("engine.tensor_parallel_size", f"{tp} is not a number of devices", "1 or more")
    for what, reason in _faults(arch, tp, replayssm):
        raise PlanRefused(
            "engine.tensor_parallel_size",
            f"{reason} ({what}, tensor parallel size {tp})",
            f"one of {', '.join(map(str, allowed_sizes(arch, replayssm=replayssm)))}",
        )


def allowed_sizes(arch: Architecture, *, replayssm: bool = False, largest: int = 64) -> tuple[int, ...]:
    """Tensor parallel sizes up to `largest` that the model supports."""
    return tuple(tp for tp in range(1, largest + 1) if not _faults(arch, tp, replayssm))


def _faults(arch: Architecture, tp: int, replayssm: bool) -> list[tuple[str, str]]:
    faults = []

    def must_divide(number: int, what: str, reason: str) -> None:
        if number % tp:
            faults.append((f"{what} {number}", reason))

    for attention in filter(None, (arch.attention, arch.window_attention)):
        must_divide(
            attention.heads,
            "num_attention_heads",
            "Total number of attention heads must be divisible by tensor parallel size",
        )
        kv_heads = attention.kv_heads
        # gpt-oss divides by its number of key heads on a rank, which is then zero.
        replicated = tp % kv_heads == 0 and arch.family != "gpt_oss"
        if kv_heads % tp if kv_heads >= tp else not replicated:
            faults.append((f"num_key_value_heads {kv_heads}", "KV heads can be neither split nor replicated evenly"))
    match arch.state:
        case Mamba2(heads=heads, groups=groups):
            must_divide(heads, "mamba heads", "Tensor parallel world size must divide num heads")
            if groups % tp and (groups != 1 or replayssm):
                faults.append(
                    (
                        f"n_groups {groups}",
                        "If tensor parallel world size does not divide num_groups, then num_groups must equal 1",
                    )
                )
        case GatedDeltaNet(key_heads=keys, value_heads=values):
            must_divide(keys, "linear_num_key_heads", "Linear attention heads are not divisible")
            must_divide(values, "linear_num_value_heads", "Linear attention heads are not divisible")
        case Mamba1(inner=inner):
            must_divide(inner, "mamba_expand * hidden_size", "The Mamba state is not divisible")
        case ShortConv(width=width):
            must_divide(width, "conv_dim", "The convolution is not divisible")
        case KimiDelta(heads=heads):
            must_divide(heads, "linear attention heads", "Linear attention heads are not divisible")
        case Lightning(heads=heads, norm_groups=groups):
            must_divide(heads, "linear attention heads", "Linear attention heads are not divisible")
            must_divide(groups, "group_norm_size", "group_norm_size must be divisible by tp_size")
    if arch.tower is not None:
        must_divide(arch.tower.heads, "vision_config.num_heads", "The vision encoder is not divisible")
    if arch.mlp is not None:
        must_divide(arch.mlp.intermediate, "intermediate_size", "The MLP is not divisible")
    if arch.moe is not None:
        if arch.family in AT_MOST_ONE_DEVICE_PER_EXPERT and tp > arch.moe.experts:
            faults.append((f"experts {arch.moe.experts}", "Tensor parallel size is greater than the number of experts"))
        if arch.moe.intermediate // tp >= arch.moe.width_on_rank:
            must_divide(arch.moe.intermediate, "expert intermediate size", "Experts are not divisible")
        must_divide(arch.moe.shared_intermediate, "shared expert intermediate size", "Experts are not divisible")
    return faults


def split_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each pipeline stage: a remainder goes to the stages before the last, from the back.

    Source: vLLM distributed/utils.py, get_pp_indices.
    """
    split = [layers // stages] * stages
    for extra in range(2, layers % stages + 2):
        split[-extra] += 1
    return tuple(split)
