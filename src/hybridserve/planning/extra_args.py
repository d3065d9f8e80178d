"""Engine arguments without a setting (`engine.extra_args`) that change what is planned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.planning.memory.lora import LoraSlots
from hybridserve.planning.models.quantization import FP8, NVFP4, UNQUANTIZED, Precision, online
from hybridserve.settings.engine import EngineSection

# Arguments of the cache planner, under its own names.
CACHE: dict[str, type] = {
    "mamba_block_size": int,
    "enable_chunked_prefill": bool,
    "use_replayssm": bool,
    "replayssm_buffer_len": int,
    "num_gpu_blocks_override": int,
}
# Parallelism that the planner, Ray Serve's placement and the chart do not have: one replica is one engine.
REFUSED = {
    "data_parallel_size": "scaling.min_replicas: each replica is an engine of its own, and the gateway balances them",
    "decode_context_parallel_size": "engine.tensor_parallel_size",
    "prefill_context_parallel_size": "engine.tensor_parallel_size",
}
ONLINE = {
    "fp8": FP8,
    "fp8_per_tensor": FP8,
    "fp8_per_block": FP8,
    "fp8_per_channel": FP8,
    "mxfp8": FP8 + 1 / 32,
    "int8_per_channel_weight_only": FP8,
    "nvfp4_per_token": NVFP4,
}
ONLINE_PRECISIONS = tuple(online(method, size) for method, size in ONLINE.items())
# Arguments that set a part of a setting which has rules: the whole setting is needed.
PARTS = {"spec_method": "speculative_config", "spec_model": "speculative_config", "spec_tokens": "speculative_config"}

# Other names would become further words of a command line (`chat_template=x`), or set a part of one (`hf_overrides.x`).
_NAME = re.compile("[a-zA-Z][a-zA-Z0-9]*([_-][a-zA-Z0-9]+)*")


def extra_args(engine: EngineSection) -> dict[str, Any]:
    """The arguments without a setting, by their names with underscores.

    Raises:
        ConfigError: an argument sets a part of a setting, or would be read as another one on a command line.
    """
    for name, value in engine.extra_args.items():
        where = f"engine.extra_args.{name}"
        if not _NAME.fullmatch(name):
            raise ConfigError(where, "is not the name of an argument", "write NAME: VALUE, and the parts as a mapping")
        if name == "config":
            raise ConfigError(where, "reads arguments from a file, which nothing here checks", "write them here")
        for word in value if isinstance(value, list | tuple) else [value]:
            if isinstance(word, str) and word.startswith("-"):
                raise ConfigError(where, f"{word!r} would be read as another argument", "give a value without a dash")
        if whole := PARTS.get(name.replace("-", "_")):
            raise ConfigError(f"engine.extra_args.{name}", "is a part of another setting", f"set engine.{whole}")
    return {name.replace("-", "_"): value for name, value in engine.extra_args.items()}


def extra(engine: EngineSection, name: str, kind: type, default: Any) -> Any:
    """An argument by its name with underscores or dashes.

    Raises:
        ConfigError: the value has another type.
    """
    for written in (name, name.replace("_", "-")):
        value = engine.extra_args.get(written)
        if value is None:
            continue
        # A whole number is a number.
        if type(value) is not kind and not (kind is float and type(value) is int):
            needed = {bool: "true or false", int: "an integer", float: "a number"}.get(kind, "a name")
            raise ConfigError(f"engine.extra_args.{written}", f"expected {needed}, got {value!r}", "correct it")
        if kind is float and isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ConfigError(f"engine.extra_args.{written}", f"is {value!r}", "a number of at least 0")
        return value
    return default


def cache_args(engine: EngineSection) -> dict[str, Any]:
    """The arguments that determine the cache.

    Raises:
        ConfigError: a wrong type, or parallelism that is not supported.
    """
    for name, instead in REFUSED.items():
        if (size := extra(engine, name, int, 1)) != 1:
            raise ConfigError(
                f"engine.extra_args.{name}", f"is {size}: not supported", f"1; for more devices {instead}"
            )
    found = {name: extra(engine, name, kind, None) for name, kind in CACHE.items()}
    if found["use_replayssm"] and (backend := extra(engine, "mamba_backend", str, "triton")) != "triton":
        raise ConfigError(
            "engine.extra_args.mamba_backend", f"is {backend!r}: its ReplaySSM is not planned", "no use_replayssm"
        )
    return {name: value for name, value in found.items() if value is not None}


def lora_slots(engine: EngineSection) -> LoraSlots | None:
    """The adapters that can be loaded, with vLLM's defaults."""
    if not extra(engine, "enable_lora", bool, False):
        return None
    count, rank = extra(engine, "max_loras", int, 1), extra(engine, "max_lora_rank", int, 16)
    for name, value in (("max_loras", count), ("max_lora_rank", rank)):
        if value < 1:
            raise ConfigError(f"engine.extra_args.{name}", f"is {value}", "an integer of at least 1")
    return LoraSlots(count, rank)


def full_cudagraphs(engine: EngineSection) -> bool:
    """Whether graphs of whole steps are captured, as `compilation_config` says; eager mode is a separate setting."""
    config = engine.extra_args.get("compilation_config", engine.extra_args.get("compilation-config"))
    mode = config.get("cudagraph_mode") if isinstance(config, Mapping) else None
    return mode is None or str(mode).upper() not in ("PIECEWISE", "NONE")


def online_quantization(engine: EngineSection, stored: Precision, accepted: tuple[str, ...]) -> Precision:
    """The precision after `--quantization` has converted an unquantized checkpoint while it loads.

    Args:
        accepted: names of the method for a checkpoint that is quantized already.

    Raises:
        ConfigError: the planner does not know the size that the method gives, or the engine does not convert a
            checkpoint that is quantized already.
    """
    method = extra(engine, "quantization", str, None)
    if method is None:
        return stored
    method = method.lower()
    if stored != UNQUANTIZED:
        if method not in accepted:
            raise ConfigError(
                "engine.extra_args.quantization",
                f"is {method!r}, and the checkpoint is quantized already ({accepted[0]})",
                f"remove it: the checkpoint names its own method; or one of {', '.join(accepted)}",
            )
        return stored
    if method not in ONLINE:
        raise ConfigError(
            "engine.extra_args.quantization",
            f"is {method!r}, and the checkpoint is not quantized",
            f"one of {', '.join(ONLINE)}, or a checkpoint with a quantization_config",
        )
    return online(method, ONLINE[method])
