"""Resolve settings to a planned deployment, and to vLLM's engine arguments.

`serve`, `render`, the chart and compose all use `engine_args`, so they start the same engine.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridserve.catalog.accelerators import Accelerator, accelerator, newest_capability
from hybridserve.catalog.checkpoint import checkpoint_size
from hybridserve.catalog.engines import engine_table
from hybridserve.catalog.licenses import pinned_commit
from hybridserve.catalog.models import ModelCard, ResolvedModel, described_model, resolve_model
from hybridserve.errors import ConfigError, PlanRefused
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.dtypes import resolve_dtypes
from hybridserve.planning.cache.layout import model_context
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.deployment import Deployment
from hybridserve.planning.drafts import speculative_tokens, with_drafts
from hybridserve.planning.extra_args import (
    cache_args,
    extra,
    extra_args,
    full_cudagraphs,
    lora_slots,
    online_quantization,
)
from hybridserve.planning.flags import Goal
from hybridserve.planning.memory.weights import mtp_bytes
from hybridserve.planning.models import Architecture, read_architecture
from hybridserve.planning.models.architecture import NOT_IN_FLOAT16
from hybridserve.planning.models.quantization import (
    MODELOPT,
    UNQUANTIZED,
    Precision,
    accepted_methods,
    vendor_recipe,
)
from hybridserve.planning.recommend import Recommendation, Reuse, recommend
from hybridserve.planning.workload import ASSUMED, Workload
from hybridserve.settings import Settings
from hybridserve.settings.engine import EngineSection
from hybridserve.units import GIB

if TYPE_CHECKING:
    from hybridserve.planning.memory.profile import MemoryProfile

# Settings that are passed on unchanged, under the same name, if they are set.
PASSED_ON = (
    "watermark",
    "mamba_cache_dtype",
    "kv_cache_dtype",
    "enable_mamba_cache_stochastic_rounding",
    "mamba_cache_mode",
    "prefix_match_unit",
    "block_size",
    "max_num_queued_reqs",
    "chat_template",
    "speculative_config",
    "kv_transfer_config",
    "trust_remote_code",
    "hf_overrides",
    "logits_processors",
)


@dataclass(frozen=True, slots=True)
class ResolvedPlan:
    """Settings, the model that they name, and the recommendation for flags that they do not set.

    `asked` is the deployment as the settings alone describe it, without the recommendation.
    """

    settings: Settings
    model: ResolvedModel
    asked: Deployment
    advice: Recommendation


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Inputs of a plan besides the settings."""

    workload: Workload = ASSUMED
    goal: Goal = "throughput"
    reuse: Reuse = "unknown"
    calibration: MemoryProfile | None = None


DEFAULT_OPTIONS = PlanOptions()


def plan_settings(settings: Settings, options: PlanOptions = DEFAULT_OPTIONS) -> ResolvedPlan:
    """Find the model, plan it on its accelerator, and recommend flags that are not set.

    Raises:
        CatalogError: the model or accelerator is not known.
        ConfigError: a setting contradicts the model.
        PlanRefused: the engine would not start.
    """
    model = find_model(settings)
    asked = deployment_from(settings, model, options.calibration or _calibration(settings))
    return ResolvedPlan(settings, model, asked, recommend(asked, options.workload, options.goal, options.reuse))


def _calibration(settings: Settings) -> MemoryProfile | None:
    """The calibration file of the settings, if it exists."""
    file = settings.accelerator.calibration
    if file is None or not file.exists():
        return None
    # Imported here only: most plans have no calibration file.
    from hybridserve.planning.memory.profile import read_memory_profile

    return read_memory_profile(file.read_text(encoding="utf-8"), str(file))


def find_model(settings: Settings) -> ResolvedModel:
    """The model of the settings, with the config.json beside its weights if those are local."""
    section = settings.model
    model = resolve_model(section.id) if section.config is None else described_model(section.id, section.config)
    source = section.source
    if source is not None and Path(source).is_dir():
        local = resolve_model(source)
        model = replace(model, config=local.config, folder=local.folder)
    return model


def deployment_from(settings: Settings, model: ResolvedModel, calibration: MemoryProfile | None = None) -> Deployment:
    """The deployment to plan, from settings and a resolved model.

    Raises:
        CatalogError: the accelerator is unknown, or config.json cannot be read.
        ConfigError: a setting contradicts another, or the model.
    """
    engine, card = settings.engine, model.card
    config = {**model.config, **engine.hf_overrides}
    arch = with_drafts(engine, read_architecture(config))
    if extra(engine, "language_model_only", bool, False) or (card is not None and card.serving.language_model_only):
        arch = replace(arch, tower=None, uncounted=tuple(part for part in arch.uncounted if "draft" in part))
    stored = arch.precision
    if stored == UNQUANTIZED and card is not None:
        stored = vendor_recipe(card.weights.quantization, arch.hybrid)
    # A card without a config.json of its own states NVIDIA's recipe, whose checkpoints ModelOpt makes.
    precision = online_quantization(engine, stored, accepted_methods(config) or MODELOPT)
    # One limit for the whole report: what this engine version derives from the config.
    arch = replace(
        arch, max_position_embeddings=model_context(arch, engine_table(engine.version)[0]), yarn_context=None
    )
    if engine.max_model_len is not None and engine.max_model_len > arch.max_position_embeddings:
        raise ConfigError(
            "engine.max_model_len",
            f"{engine.max_model_len:,} tokens are more than the {arch.max_position_embeddings:,} of {model.id}",
            f"set at most {arch.max_position_embeddings}",
        )
    device = _device(settings)
    memory_gib = settings.accelerator.memory_gib
    card_dtype = card.serving.mamba_ssm_cache_dtype if card else None
    caching = engine.enable_prefix_caching
    if caching is None:
        # The engine's default is off for models without attention.
        caching = engine.mamba_cache_mode != "none" and arch.attention is not None
    return Deployment(
        model=model.id,
        arch=arch,
        accelerator=device,
        served_len=(card.serving.max_model_len if card else None) or arch.default_context,
        total_bytes=round(memory_gib * GIB) if memory_gib else None,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        kv_cache_memory_bytes=engine.kv_cache_memory_bytes,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        enforce_eager=_eager(engine, device.platform == "cpu"),
        precision=precision,
        **_weight_size(settings, model, arch, precision),
        expert_parallel=extra(engine, "enable_expert_parallel", bool, False),
        cpu_offload_bytes=round(extra(engine, "cpu_offload_gb", float, 0.0) * GIB),
        lora=lora_slots(engine),
        calibration=calibration,
        full_cudagraphs=full_cudagraphs(engine),
        cache=CacheRequest(
            engine=engine.version,
            platform=device.platform,
            kv_bytes=0,
            dtype=_dtype(engine.dtype, arch, device),
            kv_cache_dtype=engine.kv_cache_dtype,
            mamba_cache_dtype=engine.mamba_cache_dtype,
            mamba_ssm_cache_dtype=engine.mamba_ssm_cache_dtype or card_dtype or "auto",
            tensor_parallel_size=engine.tensor_parallel_size,
            pipeline_parallel_size=engine.pipeline_parallel_size,
            block_size=engine.block_size,
            enable_prefix_caching=caching,
            mamba_cache_mode=engine.mamba_cache_mode,
            prefix_match_unit=engine.prefix_match_unit,
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.max_num_seqs,
            **cache_args(engine),
            num_speculative_tokens=speculative_tokens(engine.speculative_config or {}),
            compute_capability=device.compute_capability,
        ),
    )


def _device(settings: Settings) -> Accelerator:
    """The accelerator; the one named generic is described by settings.

    Raises:
        CatalogError: unknown.
        ConfigError: a setting of a generic device is missing, or given for another.
        PlanRefused: the engine has no kernels for it.
    """
    named, device = settings.accelerator, accelerator(settings.accelerator.name)
    if device.id == "generic":
        missing = [
            ConfigError(f"accelerator.{name}", "a generic device needs it", f"--set accelerator.{name}={form}")
            for name, form in (("memory_gib", "GIB, such as 24"), ("compute_capability", "X.Y, such as 8.6"))
            if getattr(named, name) is None
        ]
        if missing:
            missing[0].others = tuple(missing[1:])
            raise missing[0]
        device = device.model_copy(update={"compute_capability": f"{named.compute_capability:.1f}"})
        if device.capability > (newest := newest_capability()):
            # sm_86 is 8.6, sm_120 is 12.0.
            given = named.compute_capability or 0.0
            tenth, highest = f"{given / 10:.1f}", ".".join(map(str, newest))
            meant = f"did you mean {tenth}? " if tuple(map(int, tenth.split("."))) <= newest else ""
            what = f"{given:g} is above the newest that is known, {highest}"
            raise ConfigError("accelerator.compute_capability", what, f"{meant}at most {highest}, written as 8.6")
    elif named.compute_capability is not None:
        raise ConfigError("accelerator.compute_capability", f"{device.id} has its own", "set it for generic only")
    if not device.has_kernels:
        raise PlanRefused(
            "accelerator.name",
            f"vLLM's wheels have no kernels for compute capability {device.compute_capability} ({device.name})",
            "a device of compute capability 7.5 or higher",
        )
    return device


def _dtype(asked: str, arch: Architecture, device: Accelerator) -> str:
    """The type of weights: before compute capability 8.0 there is no bfloat16, and `auto` becomes the next type.

    Raises:
        PlanRefused: bfloat16 was asked for. Source: vLLM platforms/cuda.py, check_if_supports_dtype.
    """
    if device.platform != "cuda" or device.capability >= (8, 0) or "bfloat16" not in (asked, arch.dtype):
        return asked
    if asked == "bfloat16":
        raise PlanRefused(
            "engine.dtype",
            "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
            f"{device.name} has compute capability {device.compute_capability}",
            "auto or float16",
        )
    if asked != "auto":
        return asked
    return "float32" if arch.family in NOT_IN_FLOAT16 else "float16"


def _weight_size(settings: Settings, model: ResolvedModel, arch: Architecture, precision: Precision) -> dict[str, Any]:
    """The size of the checkpoint: as set, from its files, or published."""
    if settings.model.weight_bytes is not None:
        return {"weight_bytes": settings.model.weight_bytes, "weight_source": "model.weight_bytes, set by you"}
    online = precision.converted
    if model.folder is not None and not online and (files := checkpoint_size(model.folder)) is not None:
        size = files.bytes - (mtp_bytes(arch) if files.has_mtp else 0)
        return {"weight_bytes": max(size, 1), "weight_source": files.source}
    if model.card is not None and model.card.weights.bytes is not None and not online:
        return {
            "weight_bytes": model.card.weights.bytes,
            "weight_confirmed": "bytes" not in model.card.weights.uncertain,
        }
    if not precision.sized:
        raise ConfigError(
            "model.weight_bytes",
            f"the config of {model.id} does not state the bytes of its {precision.name} weights",
            "set it to the size of its safetensors files, or plan from a folder that has them or their index",
        )
    return {}


def engine_args(settings: Settings, planned: ResolvedPlan | None = None) -> dict[str, Any]:
    """vLLM's arguments for this deployment, under the names of `vllm serve` (underscores for dashes).

    Precedence: settings, then the recommendation, then the model card. Values are plain JSON. The engine's defaults are
    left out, except for those that differ between releases.

    Args:
        planned: from `plan_settings`; if None, planned here for the assumed workload.

    Raises:
        CatalogError, ConfigError, PlanRefused: as `plan_settings`.
    """
    planned = planned or plan_settings(settings)
    model, advice, engine = planned.model, planned.advice, settings.engine
    cpu = advice.plan.deployment.accelerator.platform == "cpu"
    args: dict[str, Any] = {"model": weights_source(settings, model)}
    if revision := settings.model.revision or pinned_commit(model, settings.model.source):
        args["revision"] = revision
    args["served_model_name"] = [settings.model.served_name or model.id]
    dtype = advice.plan.deployment.cache.dtype
    args["dtype"] = advice.plan.deployment.arch.dtype if dtype == "auto" else dtype
    if engine.tensor_parallel_size > 1:
        args["tensor_parallel_size"] = engine.tensor_parallel_size
    if engine.pipeline_parallel_size > 1:
        args["pipeline_parallel_size"] = engine.pipeline_parallel_size
    args.update(advice.values)
    for name in PASSED_ON:
        value = getattr(engine, name)
        if value is not None and value is not False and value not in ("auto", (), {}):
            args[name] = list(value) if isinstance(value, tuple) else value
    if _eager(engine, cpu):
        args["enforce_eager"] = True
    if settings.telemetry.otlp_endpoint is not None:
        args["otlp_traces_endpoint"] = settings.telemetry.otlp_endpoint
    if settings.telemetry.log_requests:
        args["enable_log_requests"] = True
    args["seed"] = engine.seed
    args.update(_from_card(engine, model.card))
    extra = extra_args(engine)
    clash = sorted(set(args) & set(extra))
    if clash:
        raise ConfigError(
            f"engine.extra_args.{clash[0]}",
            f"{clash[0]} is set twice: the plan or another setting has {args[clash[0]]!r}",
            f"set engine.{clash[0]} instead" if hasattr(engine, clash[0]) else "remove it",
        )
    return {**args, **extra}


def stated_types(planned: ResolvedPlan) -> dict[str, str]:
    """The types that `auto` has here: its meaning depends on the release (rule engine.auto-dtype)."""
    deployment = planned.advice.plan.deployment
    table, _ = engine_table(deployment.cache.engine)
    types = resolve_dtypes(deployment.arch, deployment.cache, table)
    named = {"dtype": types.model}
    if deployment.arch.hybrid:
        named["mamba_cache_dtype"] = types.conv
    known = table.kv_cache_dtypes.get(types.attention)
    if known is not None and deployment.accelerator.platform in known.platforms:
        named["kv_cache_dtype"] = types.attention
    return named if deployment.accelerator.platform == "cuda" else {}


def engine_environment(settings: Settings) -> dict[str, str]:
    """Environment variables of the engine's processes, unless the user has set them.

    ``OMP_NUM_THREADS``: vLLM sets no number of threads for a worker inside the engine core, so torch would use every
    core, and block on those that the server uses. Ray sets it to the replica's CPUs, which is one.

    ``TORCH_COMPILE_DISABLE``: ``enforce_eager`` does not cover vLLM's samplers (vllm/v1/sample/ops). On a CPU the first
    request that samples, or wants logprobs, would run a C++ compiler, which delays every stream for seconds, and stops
    the engine if there is no compiler.
    """
    if accelerator(settings.accelerator.name).platform != "cpu":
        return {}
    eager = {"TORCH_COMPILE_DISABLE": "1"} if _eager(settings.engine, cpu=True) else {}
    return {"OMP_NUM_THREADS": "1", **eager}


def weights_source(settings: Settings, model: ResolvedModel) -> str:
    """Folder or repository of the weights.

    Raises:
        ConfigError: the card has no repository, and no folder was given.
    """
    if settings.model.source is not None:
        return settings.model.source
    if model.folder is not None:
        return str(model.folder)
    if model.card is not None and model.card.repository is not None:
        return model.card.repository
    raise ConfigError("model.source", f"{model.id} is not published", "set model.source to the folder with its weights")


def _eager(engine: EngineSection, cpu: bool) -> bool:
    # On a CPU, compilation needs a compiler and a minute, and does not speed up small models.
    return cpu if engine.enforce_eager is None else engine.enforce_eager


def _from_card(engine: EngineSection, card: ModelCard | None) -> dict[str, Any]:
    """Parsers and modes from the model card that are not set."""
    args: dict[str, Any] = {}
    serving = card.serving if card else None
    if parser := engine.reasoning_parser or (serving.reasoning_parser if serving else None):
        args["reasoning_parser"] = parser
    if parser := engine.tool_call_parser or (serving.tool_call_parser if serving else None):
        args["tool_call_parser"] = parser
        args["enable_auto_tool_choice"] = True
    if serving is not None and serving.language_model_only:
        args["language_model_only"] = True
    return args
