"""The number types of a model's caches, and their sizes."""

from __future__ import annotations

from hybridserve.catalog.engines import EngineTable
from hybridserve.errors import PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.models.architecture import Architecture, KimiDelta, Lightning
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
    conv = model if request.mamba_cache_dtype == "auto" else request.mamba_cache_dtype
    attention = (arch.kv_cache_dtype or "auto") if request.kv_cache_dtype == "auto" else request.kv_cache_dtype
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
    return CacheDtypes(model, attention, conv, _ssm_dtype(arch, request, conv), size, scale)


def _ssm_dtype(arch: Architecture, request: CacheRequest, conv: str) -> str:
    if isinstance(arch.state, KimiDelta):
        return "float32"
    if isinstance(arch.state, Lightning):
        return conv
    asked = request.mamba_ssm_cache_dtype
    if asked == "auto" and arch.ssm_dtype:
        asked = arch.ssm_dtype
    # The accelerated CPU kernel uses 16 bits only if the type is set explicitly and the config marks linear attention
    # layers; otherwise it resets the state to float32. Source: vLLM platforms/cpu.py.
    if request.platform == "cpu" and request.avx512_bf16:
        keeps = asked in ("float16", "bfloat16") and arch.marks_linear_attention and not request.use_replayssm
        return asked if keeps else "float32"
    return conv if asked == "auto" else asked
