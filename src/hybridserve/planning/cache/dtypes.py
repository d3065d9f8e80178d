"""The number types of a model's caches, and their sizes."""

from __future__ import annotations

from dataclasses import replace

from hybridserve.catalog.engines import EngineTable
from hybridserve.errors import PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.models.architecture import (
    NOT_IN_FLOAT16,
    Architecture,
    KimiDelta,
    Lightning,
    ShortConv,
    StateMixer,
)
from hybridserve.units import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class CacheDtypes:
    """Resolved types under vLLM's names, and bytes of one number."""

    model: str
    attention: str
    conv: str
    ssm: str
    attention_bytes: int
    attention_scale_bytes: int
    """Per head, once for keys and once for values."""

    @property
    def model_bytes(self) -> int:
        return DTYPE_BYTES[self.model]

    @property
    def conv_bytes(self) -> int:
        return DTYPE_BYTES[self.conv]

    @property
    def ssm_bytes(self) -> int:
        return DTYPE_BYTES[self.ssm]


def resolve_dtypes(arch: Architecture, request: CacheRequest, table: EngineTable) -> CacheDtypes:
    """Resolve `auto` and what the platform overrides.

    Raises:
        PlanRefused: the engine or the planner does not support a type.
    """
    for name in ("dtype", "mamba_cache_dtype", "mamba_ssm_cache_dtype"):
        if getattr(request, name) not in ("auto", *DTYPE_BYTES):
            raise PlanRefused(
                f"engine.{name}", f"{getattr(request, name)!r} is not a type", f"one of auto, {', '.join(DTYPE_BYTES)}"
            )
    model = arch.dtype if request.dtype == "auto" else request.dtype
    if model == "float16" and arch.family in NOT_IN_FLOAT16:
        raise PlanRefused(
            "engine.dtype",
            f"The model type {arch.family!r} does not support float16. Reason: Numerical instability",
            "bfloat16 or float32",
        )
    conv = model if request.mamba_cache_dtype == "auto" else request.mamba_cache_dtype
    attention = (arch.kv_cache_dtype or "auto") if request.kv_cache_dtype == "auto" else request.kv_cache_dtype
    if table.float_cache_must_match and attention in ("float16", "bfloat16") and attention != model:
        raise PlanRefused(
            "engine.kv_cache_dtype",
            f'kv_cache_dtype="{attention}" is incompatible with dtype="{model}"',
            f"auto or {model}" if model != "float32" else "auto",
        )
    if attention == "auto":
        size, scale, attention = DTYPE_BYTES[model], 0, model
    elif (entry := table.kv_cache_dtypes.get(attention)) and request.platform in entry.platforms:
        size, scale = entry.bytes, entry.scale_bytes
    else:
        known = [name for name, entry in table.kv_cache_dtypes.items() if request.platform in entry.platforms]
        raise PlanRefused(
            "engine.kv_cache_dtype",
            f"{attention!r} is not supported by the planner on {request.platform}",
            f"one of auto, {', '.join(known)}",
        )
    if isinstance(arch.state, KimiDelta):
        ssm = _kda_dtype(arch.state, request, table)
    else:
        ssm = conv if isinstance(arch.state, Lightning) else _ssm_dtype(arch, request, conv)
    return CacheDtypes(model, attention, conv, ssm, size, scale)


def aligned_dtypes(arch: Architecture, request: CacheRequest, table: EngineTable, dtypes: CacheDtypes) -> CacheDtypes:
    """The types of the state that the engine aligns its pages to.

    Kimi-Linear's class states the type that was set, and its layers keep float32. Source: vLLM models/kimi_k3.
    """
    asked = request.mamba_ssm_cache_dtype
    if arch.family == "kimi_linear" and len(table.kda_state_dtypes) > 1 and asked != "auto":
        return replace(dtypes, ssm=asked)
    return dtypes


def takes_ssm_dtype(mixer: StateMixer, table: EngineTable) -> bool:
    """Whether `--mamba-ssm-cache-dtype` sets the type of this state."""
    if isinstance(mixer, KimiDelta):
        return not _kda_dtype_is_fixed(mixer, table)
    # Their states have the type of `--mamba-cache-dtype`. Source: vLLM mamba_utils.py, *_state_dtype.
    return not isinstance(mixer, ShortConv | Lightning)


def _kda_dtype_is_fixed(mixer: KimiDelta, table: EngineTable) -> bool:
    # Of Kimi's layers only K3's have another type; Ling's layers and class have float32.
    return len(table.kda_state_dtypes) == 1 or mixer.decay_rank is None


def _kda_dtype(mixer: KimiDelta, request: CacheRequest, table: EngineTable) -> str:
    asked = request.mamba_ssm_cache_dtype
    if _kda_dtype_is_fixed(mixer, table) or asked == "auto":
        return "float32"
    if asked not in table.kda_state_dtypes:
        raise PlanRefused(
            "engine.mamba_ssm_cache_dtype",
            f"KDA recurrent state supports only auto, float32, and bfloat16; got {asked}",
            f"one of auto, {', '.join(table.kda_state_dtypes)}",
        )
    return asked if mixer.gate_rank is None else "float32"


def _ssm_dtype(arch: Architecture, request: CacheRequest, conv: str) -> str:
    asked = request.mamba_ssm_cache_dtype
    if asked == "auto" and arch.ssm_dtype:
        asked = arch.ssm_dtype
    # The accelerated CPU kernel uses 16 bits only if the type is set explicitly and the config marks linear attention
    # layers; otherwise it resets the state to float32. Source: vLLM platforms/cpu.py.
    if request.platform == "cpu" and request.avx512_bf16:
        keeps = asked in ("float16", "bfloat16") and arch.marks_linear_attention and not request.use_replayssm
        return asked if keeps else "float32"
    return conv if asked == "auto" else asked
