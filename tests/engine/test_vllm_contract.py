"""Contract: the private names of vLLM 0.29 that `engine.patches.vllm` and `engine.preload` use mean the same.

Also: every engine argument of vLLM was looked at, for the rules about `engine.extra_args`.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

import hybridserve
from hybridserve.compliance.overrides import HARMLESS, OVERRIDES
from hybridserve.compliance.rules.exposure import REVEALING
from hybridserve.engine.preload import inline_worker_flags
from hybridserve.planning.extra_args import PARTS
from hybridserve.settings import load
from hybridserve.settings.engine import EngineSection

pytestmark = pytest.mark.engine

# Arguments that neither replace a part of the checkpoint nor run other code nor reveal prompts. Those with fields are
# searched for names of code; `quantization` has a rule of its own; host, port and TLS are not used behind the gateway.
NEUTRAL = """
    _api_process_count _api_process_rank additional_config aggregate_engine_logging all2all_backend
    allow_credentials allow_deprecated_quantization allowed_headers allowed_media_domains allowed_methods
    allowed_origins api_key async_scheduling attention_backend attention_config chat_template_content_format
    cohere_format cohere_is_reasoning_model collect_detailed_traces compilation_config convert
    cp_kv_cache_interleave_size cpu_distributed_timeout_seconds cpu_offload_gb cpu_offload_params
    cudagraph_capture_sizes cudagraph_metrics data_parallel_address data_parallel_backend data_parallel_external_lb
    data_parallel_hybrid_lb data_parallel_multi_port_external_lb data_parallel_rank data_parallel_rpc_port
    data_parallel_size data_parallel_size_local data_parallel_start_rank data_parallel_supervisor_port
    dbo_decode_token_threshold dbo_prefill_token_threshold dcp_comm_backend dcp_kv_cache_interleave_size
    dcp_q_replicate decode_context_parallel_size device_ids diffusion_config disable_access_log_for_endpoints
    disable_cascade_attn disable_chunked_mm_input disable_custom_all_reduce disable_fastapi_docs
    disable_hybrid_kv_cache_manager disable_log_stats disable_nccl_for_dp_synchronization disable_sliding_window
    disable_uvicorn_access_log distributed_timeout_seconds download_dir dp_supervisor_probe_failure_threshold
    dp_supervisor_probe_interval_s dp_supervisor_probe_timeout_s ec_manager_config ec_transfer_config
    enable_auto_tool_choice enable_batch_sharded_sampling enable_bf16x3_router_gemm enable_chunked_prefill
    enable_cumem_allocator enable_dbo enable_elastic_ep enable_ep_weight_filter enable_eplb enable_expert_parallel
    enable_fault_tolerance enable_flash_late_interaction enable_flashinfer_autotune enable_force_include_usage
    enable_layerwise_nvtx_tracing enable_log_deltas enable_logging_iteration_details enable_mfu_metrics
    enable_mixed_moe_lora_format enable_mm_processor_stats enable_moe_shared_loras enable_offline_docs
    enable_per_request_metrics enable_prompt_tokens_details enable_request_id_headers enable_return_routed_experts
    enable_server_load_tracking enable_sleep_mode enable_ssl_refresh enable_tokenizer_info_endpoint
    enable_tower_connector_lora eplb_config exclude_tools_when_tool_choice_none expert_placement_strategy
    fail_on_environ_validation fault_tolerance_config fingerprint_mode fingerprint_value fully_sharded_loras
    gdn_prefill_backend h11_max_header_count h11_max_incomplete_event_size hf_token host interleave_mm_strings
    ir_op_priority jit_monitor_mode jit_monitor_verbose kda_prefill_backend kernel_config kv_cache_dtype_skip_layers
    kv_cache_metrics kv_cache_metrics_sample kv_offloading_backend kv_offloading_size kv_sharing_fast_prefill
    language_model_only limit_mm_per_prompt linear_backend log_config_file log_error_stack logprobs_mode
    long_prefill_token_threshold lora_dtype lora_target_modules mamba_backend mamba_block_size
    mamba_cache_philox_rounds mamba_config mamba_ssu_algorithm master_addr master_port max_cpu_loras
    max_cudagraph_capture_size max_log_len max_logprobs max_lora_rank max_loras max_num_queued_tokens
    max_num_scheduled_tokens max_parallel_loading_workers media_io_kwargs mm_device_do_normalize
    mm_encoder_attn_backend mm_encoder_attn_dtype mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_margin
    mm_encoder_fp8_scale_save_path mm_encoder_only mm_encoder_tp_mode mm_hasher_algorithm mm_ipc_gpu_memory_gb
    mm_processor_cache_gb mm_processor_cache_type mm_processor_device mm_processor_kwargs
    mm_shm_cache_max_object_size_mb mm_tensor_ipc model model_loader_extra_config moe_backend nnodes node_rank
    num_gpu_blocks_override numa_bind numa_bind_cpus numa_bind_nodes offload_backend offload_group_size
    offload_num_in_group offload_params offload_prefetch_step optimization_level otlp_traces_endpoint
    per_request_spec_decode_metrics performance_mode pooler_config port prefill_context_parallel_size
    prefill_schedule_interval prefix_cache_retention_interval prefix_caching_hash_algo profiler_config
    pt_load_map_location quantization ray_workers_use_nsight reasoning_config renderer_num_workers
    replayssm_buffer_len response_role return_sampling_mask return_tokens_as_token_ids revision root_path runner
    safetensors_load_strategy safetensors_prefetch_block_size safetensors_prefetch_num_threads
    scheduler_reserve_full_isl scheduling_policy served_model_name show_hidden_metrics_for_version shutdown_timeout
    skip_mm_profiling skip_tokenizer_init specialize_active_lora sse_keep_alive_interval ssl_ca_certs ssl_cert_reqs
    ssl_certfile ssl_ciphers ssl_keyfile stream_interval structured_outputs_config ubatch_size uds use_fp64_gumbel
    use_replayssm use_tqdm_on_load uvicorn_log_level video_pruning_method video_pruning_rate
"""


def test_every_engine_argument_was_looked_at() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    known = {*OVERRIDES, *HARMLESS, *REVEALING, *PARTS, *EngineSection.model_fields, *NEUTRAL.split()}
    arguments = {field.name for kind in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(kind)}
    assert arguments - known == set(), "add it to compliance/overrides.py, or here if it is neutral"
    assert {*OVERRIDES, *HARMLESS, *REVEALING, *NEUTRAL.split()} - arguments == set(), (
        "vLLM has no such argument any more"
    )


def test_executor_is_found_by_its_name_on_the_command_line() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    from hybridserve.engine.patches.vllm import InlineExecutor

    flags = inline_worker_flags(load(environ={}).settings)
    parsed = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(flags)
    assert resolve_obj_by_qualname(parsed.distributed_executor_backend) is InlineExecutor
    assert hasattr(UniProcExecutor, "_init_executor")
    assert inline_worker_flags(load(assignments=["engine.tensor_parallel_size=2"], environ={}).settings) == []


def test_engine_core_is_created_with_the_replaced_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager of core processes takes its context from the name that the patch replaces, when it is created."""
    from vllm.v1.engine import utils

    from hybridserve.engine.patches.vllm import core_from_forkserver

    class Requested(Exception):
        pass

    original = utils.get_mp_context
    with core_from_forkserver():
        assert utils.get_mp_context().get_start_method() == "forkserver"
    assert utils.get_mp_context is original

    def requested() -> None:
        raise Requested

    monkeypatch.setattr(utils, "get_mp_context", requested)
    parameters = inspect.signature(utils.CoreEngineProcManager.__init__).parameters
    arguments = {name: MagicMock() for name in parameters if name != "self"}
    with pytest.raises(Requested):
        utils.CoreEngineProcManager(**arguments)


def test_preloaded_openmp_library_is_the_one_vllm_preloads() -> None:
    """vLLM's platform code changes LD_PRELOAD as it configures an engine: after ours has run, there is nothing left."""
    code = (
        "import os\n"
        "from hybridserve.engine import preload\n"
        "if {ours}: preload._preload_openmp()\n"
        "from vllm.engine.arg_utils import EngineArgs\n"
        "EngineArgs(model={model!r}, enforce_eager=True).create_engine_config()\n"
        "print(os.environ.get('LD_PRELOAD', ''))\n"
    )
    model = str(Path(hybridserve.__file__).parent / "demo_model")
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    found = []
    for ours in (True, False):
        run = subprocess.run(
            [sys.executable, "-c", code.format(ours=ours, model=model)],
            env=environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-2000:]
        found.append({part for part in run.stdout.splitlines()[-1].split(":") if "omp" in part})
    assert found[0] == found[1]
    assert found[0]


def test_finished_requests_are_reported_with_their_tokens() -> None:
    """The hook on vLLM's own output processor, which gets what the engine core would send."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
    from vllm.v1.engine.output_processor import OutputProcessor
    from vllm.v1.metrics.stats import IterationStats, PrefillStats

    from hybridserve.engine.patches.vllm import on_finished

    processor, seen = OutputProcessor(None, log_stats=True), []
    on_finished(SimpleNamespace(output_processor=processor), lambda *request: seen.append(request))
    for name, salt in (("a", "key"), ("b", None)):
        params = SamplingParams(max_tokens=2, detokenize=False)
        request = EngineCoreRequest(name, [1, 2, 3], None, params, None, 0.0, None, salt, None)
        request.external_req_id = name
        processor.add_request(request, None)
    prefill = PrefillStats(num_prompt_tokens=3, num_cached_tokens=2)
    steps = [
        [EngineCoreOutput("a", [4], prefill_stats=prefill), EngineCoreOutput("b", [6])],
        [EngineCoreOutput("a", [5], finish_reason=FinishReason.LENGTH)],
        [EngineCoreOutput("b", [7], finish_reason=FinishReason.LENGTH)],
    ]
    for step in steps:
        processor.process_outputs(step, 1.0, IterationStats())
    assert [(list(prompt), list(output), *rest) for prompt, output, *rest in seen] == [
        ([1, 2, 3], [4, 5], 2, "key"),
        ([1, 2, 3], [6, 7], 0, ""),
    ]
