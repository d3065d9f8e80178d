"""vLLM's own cache allocator, run without weights and without a GPU: what the planner is compared with.

A case is plain data: ``{"config": config.json, "request": fields of CacheRequest that differ from the default}``. An
answer is plain data too: the integers that vLLM computes, or ``{"refused": its reason}``. The file imports nothing of
hybridserve, so that it runs in an environment with another vLLM:

    python vllm_allocator.py cases.json answers.json

How: the model class is built on torch's meta device, then vLLM aligns the block size, groups the layers and sizes the
pool, as a starting engine does. CUDA cases take the CPU build through vLLM's base class `Platform` with
FlashAttention's block sizes; tensor and pipeline parallelism are simulated by patching the group sizes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
import vllm
import vllm.config.vllm
import vllm.distributed.parallel_state as parallel_state
import vllm.models.kimi_k3.nvidia.kda as kimi_delta
from allocator_stubs import stub_experts
from vision_placeholders import vision_packages
from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
from vllm.config.compilation import CUDAGraphMode
from vllm.config.vllm import get_layers_from_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.mamba.gdn import qwen_gdn_linear_attn as gated_delta_net
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.registry import ModelRegistry
from vllm.platforms import current_platform
from vllm.platforms.interface import Platform
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend
from vllm.v1.attention.backends.mla.triton_mla import TritonMLABackend
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout
from vllm.v1.core.kv_cache_utils import (
    generate_scheduler_kv_cache_config,
    get_kv_cache_capacity,
    resolve_kv_cache_block_sizes,
)
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import AttentionSpec, MambaSpec, SlidingWindowSpec

try:  # 0.33 has the planning in a module of its own, and groups the layers before.
    from vllm.v1.core import kv_cache_planning as planning
except ImportError:
    from vllm.v1.core import kv_cache_utils as planning

ENGINE_ARGUMENTS = (
    "dtype",
    "kv_cache_dtype",
    "mamba_cache_dtype",
    "mamba_ssm_cache_dtype",
    "block_size",
    "mamba_block_size",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "mamba_cache_mode",
    "prefix_match_unit",
    "max_model_len",
    "max_num_batched_tokens",
    "use_replayssm",
    "replayssm_buffer_len",
    "num_gpu_blocks_override",
)
CUDA_BLOCK_SIZE = 16
# Classes of drafts: MTP layers of each family, and draft models.
DRAFTS = (
    "NemotronHMTPModel",
    "Qwen3NextMTP",
    "Qwen3_5MTP",
    "Qwen3_5MoeMTP",
    "BailingMoeV25MTPModel",
    "BailingMoeV3MTPModel",
    "KimiK3MTPModel",
    "LlamaForCausalLMEagle3",
    "Eagle3LlamaForCausalLM",
    "DFlashDraftModel",
)


class CudaAttention(FlashAttentionBackend):
    """FlashAttention as a GPU build selects it, without asking a driver for its version."""

    @classmethod
    def _get_fa4_hd256_block_size(cls, kv_cache_spec: Any = None) -> int | None:
        return None

    @classmethod
    def customize_spec(cls, spec: AttentionSpec) -> AttentionSpec:
        """Types with a scale per token and head are Triton's; it packs the scales into the page."""
        return TritonAttentionBackend.customize_spec(spec) if spec.kv_quant_mode.is_per_token_head else spec


class CudaLatentAttention(TritonMLABackend):
    """MLA as a GPU build selects it. Other backends have other blocks, but a hybrid's is a multiple of 128 with all."""


class CudaRules(Platform):
    """The platform code of a GPU build, as far as block sizes go. 0.32 asks for a list of backends, 0.29 for one."""

    @classmethod
    def _find_non_ssm_backend(cls, vllm_config: VllmConfig) -> Any:
        return _cuda_backend(vllm_config) if cls._has_attention(vllm_config) else None

    @classmethod
    def _find_non_ssm_backends(cls, vllm_config: VllmConfig) -> Any:
        return [_cuda_backend(vllm_config)] if cls._has_attention(vllm_config) else []

    @staticmethod
    def _has_attention(vllm_config: VllmConfig) -> bool:
        return any(not layer.get_attn_backend().is_ssm() for layer in _cache_layers(vllm_config).values())


def _cuda_backend(config: VllmConfig) -> Any:
    return CudaLatentAttention if config.model_config.use_mla else CudaAttention


def allocate(case: dict[str, Any]) -> dict[str, Any]:
    """vLLM's answer to one case."""
    try:
        with tempfile.TemporaryDirectory() as folder, _machine(case["request"]):
            (Path(folder) / "config.json").write_text(json.dumps(case["config"]))
            return _allocate(folder, case["request"], _drafts(case, Path(folder) / "draft"))
    except (ValueError, AssertionError, NotImplementedError, RuntimeError, ZeroDivisionError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def _drafts(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The engine argument of a case's drafts; n-gram drafts have no model."""
    if not (tokens := case["request"].get("num_speculative_tokens", 0)):
        return {}
    draft = case.get("draft") or {"method": "ngram"}
    speculation = {"method": draft["method"], "num_speculative_tokens": tokens}
    if config := draft.get("config"):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        speculation["model"] = str(folder)
    return {"speculative_config": speculation}


def _allocate(folder: str, request: dict[str, Any], drafts: dict[str, Any]) -> dict[str, Any]:
    _start_process_group()
    tp, pp = request.get("tensor_parallel_size", 1), request.get("pipeline_parallel_size", 1)
    cuda = request.get("platform", "cuda") == "cuda"
    arguments: dict[str, Any] = {key: request[key] for key in ENGINE_ARGUMENTS if request.get(key) is not None}
    config = EngineArgs(
        model=folder, load_format="dummy", skip_tokenizer_init=True, enforce_eager=True, **arguments, **drafts
    ).create_engine_config()
    config.parallel_config.tensor_parallel_size = tp
    config.parallel_config.pipeline_parallel_size = pp
    config.model_config.verify_with_parallel_config(config.parallel_config)
    # A GPU schedules asynchronously, but not with n-gram speculation; the CPU platform has turned it off.
    ngram = drafts and drafts["speculative_config"]["method"] == "ngram"
    config.scheduler_config.async_scheduling = cuda and not ngram
    if cuda and not config.cache_config.user_specified_block_size:
        config.cache_config.block_size = CUDA_BLOCK_SIZE

    specs: list[dict[str, Any]] = []
    layouts: list[list[str]] = []
    # Nemotron VL asks for its state with a config of the language model, for which the platform is asked again: the CPU
    # platform then resets the block size, a GPU's does not.
    reset = patch.object(type(current_platform), "check_and_update_config") if cuda else contextlib.nullcontext()
    with reset:
        for worker in _workers(config, tp, pp):
            (CudaRules if cuda else current_platform).update_block_size_for_backend(worker)
            specs.append(_specs(worker, cuda))
            layouts.append(_layouts(worker, cuda))
    with patch.object(VllmConfig, "use_v2_model_runner", cuda):
        scheduler, configs, tokens, concurrency = _plan(config, specs, layouts, request["kv_bytes"])
    if cuda and request.get("full_cudagraphs", True) and request.get("max_num_seqs") is not None:
        CompilationConfig(cudagraph_mode=CUDAGraphMode.FULL_AND_PIECEWISE).resolve_cudagraph_mode_and_sizes(
            min_cg_support=AttentionCGSupport.ALWAYS,
            min_cg_attn_backend=None,
            use_v2_model_runner=True,
            kv_cache_config=scheduler,
            max_num_reqs=request["max_num_seqs"],
        )

    merged = {name: spec for stage in specs for name, spec in stage.items()}
    states = [spec for spec in merged.values() if isinstance(spec, MambaSpec)]
    groups = [
        (group.kv_cache_spec, sum(len(stage.kv_cache_groups[index].layer_names) for stage in configs))
        for index, group in enumerate(scheduler.kv_cache_groups)
    ]
    return {
        "mode": config.cache_config.mamba_cache_mode if states else None,
        "block_size": next(
            (spec.block_size for spec, _ in groups if _kind(spec) == "attention"), groups[0][0].block_size
        ),
        "page_bytes": {spec.page_size_bytes for spec, _ in groups}.pop(),
        "state_bytes": states[0].state_content_size_bytes if states else 0,
        "groups": [[_kind(spec), layers, spec.block_size] for spec, layers in groups],
        "num_blocks": scheduler.num_blocks,
        "tokens": tokens,
        "concurrency": concurrency,
        "max_model_len": config.model_config.max_model_len,
    }


def _kind(spec: Any) -> str:
    if isinstance(spec, MambaSpec):
        return "state"
    return "window" if isinstance(spec, SlidingWindowSpec) else "attention"


def _plan(config: VllmConfig, specs: list[dict[str, Any]], layouts: list[list[str]], kv_bytes: int) -> tuple[Any, ...]:
    """Group the layers and size the pool: scheduler's config, that of each worker, printed tokens and concurrency."""
    register_all_kvcache_specs(config)
    resolve_kv_cache_layout(config, layouts, [spec for stage in specs for spec in stage.values()])
    group_first = getattr(planning, "get_global_kv_cache_groups", None)
    global_groups = [group_first(config, specs)] if group_first else []
    configs = planning.get_kv_cache_configs(config, specs, [kv_bytes] * len(specs), *global_groups)
    scheduler = generate_scheduler_kv_cache_config(configs)
    config.cache_config.block_size = min(group.kv_cache_spec.block_size for group in scheduler.kv_cache_groups)
    resolve_kv_cache_block_sizes(scheduler, config)
    return scheduler, configs, *get_kv_cache_capacity(config, scheduler)


def _workers(config: VllmConfig, tp: int, pp: int) -> Iterator[VllmConfig]:
    """The config of each pipeline stage's process, with the layers of that stage built into it."""
    try:
        for stage in range(pp):
            worker = copy.deepcopy(config)
            parallel_state._TP.world_size = tp
            parallel_state._PP.world_size, parallel_state._PP.rank_in_group = pp, stage
            with set_current_vllm_config(worker), torch.device("meta"):
                initialize_model(worker)
                if (speculation := worker.speculative_config) and speculation.method != "ngram" and stage == pp - 1:
                    initialize_model(worker, model_config=speculation.draft_model_config)
            yield worker
    finally:
        parallel_state._TP.world_size, parallel_state._PP.world_size, parallel_state._PP.rank_in_group = 1, 1, 0


def _layouts(worker: VllmConfig, cuda: bool) -> list[str]:
    """Cache layouts a worker supports, most preferred first."""
    backends = [layer.get_attn_backend() for layer in _cache_layers(worker).values()]
    if cuda:
        backends = [backend if backend.is_ssm() else _cuda_backend(worker) for backend in backends]
    return [layout.name for layout in get_supported_kv_cache_layouts(backends)]


def _cache_layers(config: VllmConfig) -> dict[str, Any]:
    return get_layers_from_vllm_config(config, AttentionLayerBase)


def _specs(config: VllmConfig, cuda: bool) -> dict[str, Any]:
    specs = {}
    for name, layer in _cache_layers(config).items():
        if cuda and isinstance(layer, Attention):
            layer.attn_backend = CudaAttention
        if getattr(layer, "kv_sharing_target_layer_name", None):
            continue
        if (spec := layer.get_kv_cache_spec(config)) is not None:
            if isinstance(spec, AttentionSpec):
                spec = (_cuda_backend(config) if cuda else layer.get_attn_backend()).customize_spec(spec)
            specs[name] = spec
    return specs


def _start_process_group() -> None:
    if torch.distributed.is_initialized():
        return
    with set_current_vllm_config(VllmConfig()):
        rendezvous = Path(tempfile.mkdtemp()) / "rendezvous"
        parallel_state.init_distributed_environment(1, 0, f"file://{rendezvous}", 0, "gloo")
        parallel_state.ensure_model_parallel_initialized(1, 1)


@contextlib.contextmanager
def _machine(request: dict[str, Any]) -> Iterator[None]:
    """What the case's machine has, whatever this one has.

    AVX512-BF16 moves the state to float32 on CPU. Triton makes model runner V2 the default on CUDA; only ReplaySSM
    asks which runner it is.
    """
    real, tiles = torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported
    # With AMX the CPU platform leaves MLA's prefix caching as it is, as a GPU does.
    torch.cpu._is_amx_tile_supported = lambda: request.get("platform", "cuda") == "cuda"
    resolve = gated_delta_net._resolve_gdn_prefill_backend
    if request.get("platform", "cuda") == "cuda" and (capability := request.get("compute_capability")):
        gated_delta_net._resolve_gdn_prefill_backend = lambda config: _on_gpu(resolve, config, capability)
        kimi_delta.current_platform = _gpu(capability)
    torch.cpu._is_avx512_bf16_supported = lambda: bool(request.get("avx512_bf16", False))
    triton = vllm.config.vllm.HAS_TRITON
    supports, platform = CPUAttentionBackend.supports_kv_cache_dtype, type(current_platform)
    select = platform.get_attn_backend_cls
    if request.get("platform", "cuda") == "cuda":
        # The layers are built with this backend; what a GPU supports is asked of `CudaAttention`.
        CPUAttentionBackend.supports_kv_cache_dtype = classmethod(lambda *_: True)
        # 0.33 refuses MLA with FP8 on this machine.
        platform.get_attn_backend_cls = staticmethod(
            lambda backend, attn_selector_config, **options: select(
                backend, attn_selector_config=attn_selector_config._replace(kv_cache_dtype=None), **options
            )
        )
        vllm.config.vllm.HAS_TRITON |= bool(request.get("use_replayssm"))
    try:
        yield
    finally:
        torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported = real, tiles
        vllm.config.vllm.HAS_TRITON = triton
        CPUAttentionBackend.supports_kv_cache_dtype, platform.get_attn_backend_cls = supports, select
        gated_delta_net._resolve_gdn_prefill_backend = resolve
        kimi_delta.current_platform = current_platform


def _on_gpu(resolve: Any, config: VllmConfig, capability: str) -> Any:
    """Which prefill kernel a GPU of this compute capability selects for a gated delta net, with CUDA 13."""
    platform = gated_delta_net.current_platform
    gated_delta_net.current_platform = _gpu(capability)
    try:
        return resolve(config)
    finally:
        gated_delta_net.current_platform = platform


def _gpu(capability: str) -> Any:
    number = int(capability.replace(".", ""))
    return types.SimpleNamespace(
        is_xpu=lambda: False,
        is_rocm=lambda: False,
        is_cuda=lambda: True,
        is_device_capability=lambda wanted: wanted == number,
        is_device_capability_family=lambda family: family // 10 == number // 10,
        get_device_capability=lambda: types.SimpleNamespace(major=number // 10),
        get_cuda_runtime_major=lambda: 13,
    )


def register_classes(architectures: Iterable[str]) -> None:
    """Register the models as classes instead of by name.

    vLLM inspects a class that it knows by name in a process of its own: seconds for each, and without the placeholders
    that vision wrappers need here. Their encoders own no cache.
    """
    with vision_packages():
        for name in sorted({*architectures, *DRAFTS} & set(ModelRegistry.models)):
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


if __name__ == "__main__":
    stub_experts()
    cases = json.loads(Path(sys.argv[1]).read_text())
    register_classes(case["config"]["architectures"][0] for case in cases)
    answers = [allocate(case) for case in cases]
    Path(sys.argv[2]).write_text(json.dumps({"vllm": vllm.__version__, "answers": answers}))
