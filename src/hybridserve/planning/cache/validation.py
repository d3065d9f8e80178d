"""The resolved mamba cache mode, and the combinations of settings that the engine refuses.

Source: vLLM models/config.py `MambaModelConfig`, config/vllm.py validators, utils of the attention backends.
"""

from __future__ import annotations

from hybridserve.catalog.engines import CacheMode, EngineTable, Mixer
from hybridserve.errors import PlanRefused
from hybridserve.planning.cache.groups import fewer_stages, stage_without_experts, stages_without_attention
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.models.architecture import (
    Architecture,
    GatedDeltaNet,
    KimiDelta,
    Lightning,
    Mamba1,
    Mamba2,
    ShortConv,
    StateMixer,
)


def state_kind(mixer: StateMixer) -> Mixer:
    """Key of the engine table's `state_blocks_align`."""
    if isinstance(mixer, Mamba2):
        return "mamba2"
    if isinstance(mixer, ShortConv):
        return "short_conv"
    # Kimi delta attention and lightning attention have the blocks of a gated delta net.
    return "mamba1" if isinstance(mixer, Mamba1) else "gated_delta_net"


def resolve_mode(arch: Architecture, request: CacheRequest, table: EngineTable, max_len: int) -> CacheMode:
    """The cache mode that the engine resolves to; `none` for a model without state.

    Raises:
        PlanRefused: the engine does not accept a setting, or a combination of settings.
    """
    _check_numbers(request)
    _check_kernels(arch, request, table)
    asked = None if table.mamba_cache_mode_ignored else request.mamba_cache_mode
    if asked is not None and asked not in table.mamba_cache_modes:
        raise PlanRefused(
            "engine.mamba_cache_mode",
            f"vLLM {table.version} has no mamba cache mode {asked!r}",
            f"one of {', '.join(table.mamba_cache_modes)}",
        )
    if request.mamba_block_size not in (None, max_len) and not request.enable_prefix_caching:
        raise PlanRefused(
            "engine.mamba_block_size",
            "--mamba-block-size can only be set with --enable-prefix-caching",
            "leave it empty: the engine aligns it",
        )
    if request.platform == "cpu" and (stages := stages_without_attention(arch, request.pipeline_parallel_size)):
        raise PlanRefused(
            "engine.pipeline_parallel_size",
            f"Workers disagree on supported KV cache layouts: stage {stages[0]} of {request.pipeline_parallel_size} "
            "has no attention layer",
            fewer_stages(arch, request.pipeline_parallel_size, lambda count: not stages_without_attention(arch, count)),
        )
    if request.pipeline_parallel_size > 1 and not arch.pipeline:
        raise PlanRefused(
            "engine.pipeline_parallel_size",
            f"Pipeline parallelism is not supported for {arch.name}",
            "1",
        )
    needs_experts = arch.moe if arch.family == "lfm2" else arch.name == "Qwen3NextForCausalLM"
    if needs_experts and (stage := stage_without_experts(arch, request.pipeline_parallel_size)):
        block = "Lfm2MoeSparseMoeBlock" if arch.family == "lfm2" else "Qwen3Next"
        raise PlanRefused(
            "engine.pipeline_parallel_size",
            f"No {block} layer found in the model.layers, on stage {stage - 1} of {request.pipeline_parallel_size}: it "
            "has no experts",
            fewer_stages(arch, request.pipeline_parallel_size, lambda count: not stage_without_experts(arch, count))
            if arch.moe
            else "a Qwen3-Next with experts; dense models have the class Qwen3_5",
        )
    if request.use_replayssm:
        _check_replayssm(arch, request, table)
    if arch.state is None or not request.enable_prefix_caching:
        return "none"
    if asked == "all" and arch.name in table.mode_all_architectures:
        return "all"
    if not request.enable_chunked_prefill:
        raise PlanRefused(
            "engine.enable_chunked_prefill",
            "Chunked prefill is required for mamba cache mode 'align'",
            "leave it on, or turn off prefix caching",
        )
    return "align"


def checkpoint_tokens(arch: Architecture, request: CacheRequest, table: EngineTable, mode: CacheMode) -> int | None:
    """Tokens whose multiple a block is where prefill kernels export states; None where they do not.

    Source: vLLM layers/mamba/gdn/qwen_gdn_linear_attn.py `_resolve_gdn_prefill_backend`, with the CUDA 13 of the wheel.
    OLMo-Hybrid's layers always use another kernel.
    """
    major, _, minor = (request.compute_capability or "").partition(".")
    if mode == "align" and isinstance(arch.state, KimiDelta) and arch.state.flash_kernel:
        # FlashKDA. Source: vLLM models/kimi_k3/nvidia/kda.py is_flashkda_supported.
        dtype = arch.dtype if request.dtype == "auto" else request.dtype
        flash = major in ("9", "10", "12") and arch.state.head_dim == 128 and dtype == "bfloat16"
        return 1 if flash else None
    if mode != "align" or arch.family != "qwen3_next" or not isinstance(arch.state, GatedDeltaNet):
        return None
    hopper, blackwell = (major, minor) == ("9", "0"), major in ("10", "12") and arch.state.key_dim == 128
    return table.flashinfer_checkpoint_tokens if hopper or blackwell else None


def _check_numbers(request: CacheRequest) -> None:
    """Refuse sizes below one, which no version accepts."""
    for name in (
        "pipeline_parallel_size",
        "block_size",
        "mamba_block_size",
        "prefix_match_unit",
        "max_num_seqs",
        "num_gpu_blocks_override",
        "replayssm_buffer_len",
    ):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise PlanRefused(f"engine.{name}", f"{value} is less than one", "1 or more, or leave it empty")
    if request.num_speculative_tokens < 0:
        raise PlanRefused("engine.num_speculative_tokens", f"{request.num_speculative_tokens} is negative", "0 or more")


def _check_kernels(arch: Architecture, request: CacheRequest, table: EngineTable) -> None:
    """Refuse block and head sizes that no attention kernel supports."""
    kernel = table.kernel_block_size["cuda"]
    if request.platform == "cuda" and request.block_size is not None and request.block_size % kernel:
        raise PlanRefused(
            "engine.block_size",
            f"no CUDA attention backend supports a block of {request.block_size} tokens",
            f"a multiple of {kernel}; on a hybrid model leave it empty, the engine aligns it",
        )
    if request.platform == "cpu" and isinstance(arch.state, KimiDelta | Lightning):
        raise PlanRefused(
            "accelerator.name",
            # The CPU build turns prefix caching off for latent attention, after its default has set the block size.
            f"--mamba-block-size can only be set with --enable-prefix-caching ({arch.name} on a CPU, which has no "
            "kernels for its linear attention either)",
            "a GPU",
        )
    head_dim = arch.attention.head_dim if arch.attention else None
    if request.platform == "cpu" and head_dim is not None and head_dim not in table.cpu_head_sizes:
        raise PlanRefused(
            "model.id",
            # The engine starts nevertheless, and fails on the first request.
            f"Unsupported CPU attention configuration: head_dim={head_dim}",
            f"a model whose head_dim is one of {', '.join(map(str, sorted(table.cpu_head_sizes)))}",
        )


def _check_replayssm(arch: Architecture, request: CacheRequest, table: EngineTable) -> None:
    where = "engine.use_replayssm"
    if arch.name not in table.replayssm_architectures:
        raise PlanRefused(
            where,
            f"--use-replayssm is not supported for architecture {arch.name!r}",
            f"a model of {', '.join(sorted(table.replayssm_architectures))}, or leave it off",
        )
    if isinstance(arch.state, KimiDelta):
        if request.num_speculative_tokens:
            raise PlanRefused(
                where, "RecoverSSM (ReplaySSM with speculation on KDA) is not planned", "use one of the two"
            )
        if arch.state.gate_rank is None:
            raise PlanRefused(where, "Kimi-K3 supports --use-replayssm only with speculative decoding", "leave it off")
    if request.num_speculative_tokens:
        raise PlanRefused(where, "ReplaySSM on Triton does not support speculative decoding", "use one of the two")
    if request.platform == "cuda" and not table.replayssm_on_cuda:
        raise PlanRefused(where, "Triton ReplaySSM requires Model Runner V1", "leave it off")
    mode = None if table.mamba_cache_mode_ignored else request.mamba_cache_mode
    if mode == "all" and request.enable_prefix_caching:
        raise PlanRefused(
            where, "--use-replayssm supports prefix caching only in align mode", "mamba_cache_mode: align"
        )
