"""Resolve settings to a planned deployment, and to vLLM's engine arguments.

`serve`, `render`, the chart and compose all use `engine_args`, so they start the same engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridserve.catalog.accelerators import accelerator
from hybridserve.catalog.models import ModelCard, ResolvedModel, resolve_model
from hybridserve.errors import ConfigError
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.deployment import Deployment
from hybridserve.planning.models import read_architecture
from hybridserve.planning.recommend import Goal, Recommendation, Reuse, recommend
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
# Arguments that affect the cache but have no setting: they are read from `engine.extra_args`.
CACHE_EXTRA_ARGS: dict[str, type] = {
    "mamba_block_size": int,
    "enable_chunked_prefill": bool,
    "use_replayssm": bool,
    "replayssm_buffer_len": int,
    "num_gpu_blocks_override": int,
}


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
    model = resolve_model(settings.model.id)
    source = settings.model.source
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
    arch = read_architecture({**model.config, **engine.hf_overrides})
    if engine.max_model_len is not None and engine.max_model_len > arch.max_position_embeddings:
        raise ConfigError(
            "engine.max_model_len",
            f"{engine.max_model_len:,} tokens are more than the {arch.max_position_embeddings:,} of {model.id}",
            f"set at most {arch.max_position_embeddings}",
        )
    device = accelerator(settings.accelerator.name)
    memory_gib = settings.accelerator.memory_gib
    card_dtype = card.serving.mamba_ssm_cache_dtype if card else None
    caching = engine.enable_prefix_caching
    if caching is None:
        caching = engine.mamba_cache_mode != "none"
    return Deployment(
        model=model.id,
        arch=arch,
        accelerator=device,
        served_len=card.serving.max_model_len if card else None,
        total_bytes=round(memory_gib * GIB) if memory_gib else None,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        kv_cache_memory_bytes=engine.kv_cache_memory_bytes,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        enforce_eager=_eager(engine, device.platform == "cpu"),
        quantization=card.weights.quantization if card else "none",
        published_weight_bytes=card.weights.bytes if card else None,
        published_confirmed=card is None or "bytes" not in card.weights.uncertain,
        calibration=calibration,
        full_cudagraphs=_full_cudagraphs(engine.extra_args),
        cache=CacheRequest(
            engine=engine.version,
            platform=device.platform,
            kv_bytes=0,
            dtype=engine.dtype,
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
            **_cache_extra_args(engine.extra_args),
            num_speculative_tokens=_speculative_tokens(engine.speculative_config or {}),
        ),
    )


def _cache_extra_args(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The free-form arguments that affect the cache, under the planner's names."""
    found = {}
    for written, value in extra.items():
        name = written.replace("-", "_")
        kind = CACHE_EXTRA_ARGS.get(name)
        if kind is None or value is None:
            continue
        if type(value) is not kind:
            needed = "true or false" if kind is bool else "an integer"
            raise ConfigError(f"engine.extra_args.{written}", f"expected {needed}, got {value!r}", "correct it")
        found[name] = value
    return found


def _full_cudagraphs(extra: Mapping[str, Any]) -> bool:
    """Whether graphs of whole steps are captured, as `compilation_config` says; eager mode is a separate setting."""
    config = extra.get("compilation_config", extra.get("compilation-config"))
    mode = config.get("cudagraph_mode") if isinstance(config, Mapping) else None
    return mode is None or str(mode).upper() not in ("PIECEWISE", "NONE")


def _speculative_tokens(config: Mapping[str, Any]) -> int:
    count = config.get("num_speculative_tokens", 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ConfigError(
            "engine.speculative_config.num_speculative_tokens", f"is {count!r}", "set an integer of at least 0"
        )
    return count


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
    if revision := settings.model.revision or (model.card.revision if model.card and not model.folder else None):
        args["revision"] = revision
    args["served_model_name"] = [settings.model.served_name or model.id]
    args["dtype"] = advice.plan.deployment.arch.dtype if engine.dtype == "auto" else engine.dtype
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
    extra = {name.replace("-", "_"): value for name, value in engine.extra_args.items()}
    clash = sorted(set(args) & set(extra))
    if clash:
        raise ConfigError(
            f"engine.extra_args.{clash[0]}",
            f"{clash[0]} is set twice: the plan or another setting has {args[clash[0]]!r}",
            f"set engine.{clash[0]} instead" if hasattr(engine, clash[0]) else "remove it",
        )
    return {**args, **extra}


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
