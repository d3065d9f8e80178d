"""How a device's memory is used: weights, runtime, activations, graphs, and the rest for the cache pool.

The engine profiles these on the device (vllm/v1/worker/gpu_worker.py, determine_available_memory)::

    requested = ceil(total * gpu_memory_utilization)
    pool      = requested - weights - runtime - activation peak - captured graphs

The size of the pool is *known* if it is given (`kv_cache_memory_bytes`) or was profiled before (`calibration`);
otherwise it is an *estimate* with a band. The estimate is fitted to starts of vLLM 0.29 with its V2 model runner, which
every planned release uses on a GPU: eleven of Nemotron Nano 9B v2 and Qwen3-8B on an H200 (docs/evidence/gpu.md), and a
public log of Qwen3.8-27B with its vision encoder.
"""

from __future__ import annotations

import math
from typing import Literal

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.memory.lora import LoraSlots, lora_bytes
from hybridserve.planning.memory.weights import WeightBytes
from hybridserve.planning.models import Architecture, GatedDeltaNet, KimiDelta, Lightning, Mamba1, Mamba2, ShortConv
from hybridserve.units import DTYPE_BYTES, MIB

Confidence = Literal["known", "estimate"]

# CUDA modules, cuBLAS and attention workspaces, input buffers; with more than one rank also NCCL and custom all-reduce.
RUNTIME_BYTES = 300 * MIB
PARALLEL_RUNTIME_BYTES = 684 * MIB
# Without a torch.compile cache, Nemotron Nano 9B v2 kept 1,088 MiB more of PyTorch's memory than with one, in both
# pairs of equal starts; Qwen3-8B and Qwen3.8-27B show no such part. The cause is unknown: the estimate is halfway.
COMPILE_BYTES = 1088 * MIB
# Of the profiled step beside the layers' intermediates, whatever the number of tokens.
STEP_BYTES = 256 * MIB
# The profiled step samples greedily: the logits, and their copy in float32.
SAMPLER_COPIES = 2
# The engine captures the graphs of mixed steps, and two of the decode graphs, whose cost it extrapolates.
MIXED_GRAPH_BYTES = 11 * MIB
DECODE_GRAPH_BYTES = 7 * MIB
# Error band of the estimate: a fixed part, and a share of what is modeled rather than counted.
BAND_BYTES = 192 * MIB
BAND_SHARE = 0.25
ROCM_BAND_BYTES = 1 << 30
ROCM_EXPERT_BAND = 0.35
# Vectors of the encoder's width that live at once for each patch, besides the input and output of the widest MLP.
ENCODER_VECTORS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """What determines how a device's memory is divided, with all defaults resolved.

    Attributes:
        total_bytes: the device's total as the driver reports it.
        kv_cache_memory_bytes: given pool; the engine then ignores utilization and profiles nothing.
        profiled_kv_bytes: pool reported by an earlier start with the same settings.
        max_capture_size: largest captured batch; 0 without graphs (`--enforce-eager`, CPU).
    """

    total_bytes: int
    gpu_memory_utilization: float
    max_num_seqs: int
    max_num_batched_tokens: int
    max_capture_size: int
    kv_cache_memory_bytes: int | None = None
    profiled_kv_bytes: int | None = None
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    cpu_offload_bytes: int = 0
    lora: LoraSlots | None = None
    rocm: bool = False


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes on the fullest device.

    Attributes:
        requested: what the engine may use; the rest of `total` is left for the CUDA context.
        weights: in device memory: without what stays in the host's memory, and with the slots of adapters.
        lora: the slots of adapters, which are part of `weights`.
        activation: transient peak of the profiling run: the largest image, one full step, then the sampler.
        kv: bytes of the cache pool; negative if nothing is left.
        band: the pool is between `kv - band` and `kv + band`; 0 if it is known.
        profiling_cache: cache allocated temporarily to measure the graphs, before the pool exists.
    """

    total: int
    requested: int
    weights: int
    lora: int
    runtime: int
    activation: int
    graphs: int
    kv: int
    band: int
    confidence: Confidence
    source: str
    profiling_cache: int

    @property
    def startup_peak(self) -> int:
        """Most bytes allocated at once while the engine starts, without the CUDA context."""
        fixed = self.weights + self.runtime
        return fixed + max(self.activation, self.profiling_cache + self.graphs, max(self.kv, 0) + self.graphs)

    @property
    def running(self) -> int:
        """Bytes allocated while the engine runs a full step."""
        return self.weights + self.runtime + self.activation + self.graphs + max(self.kv, 0)


def budget_memory(
    arch: Architecture, weights: WeightBytes, request: MemoryRequest, bytes_per_block: int
) -> MemoryBudget:
    """Divide the memory of the fullest device.

    Args:
        weights: on the fullest rank, from `count_weights`.
        bytes_per_block: from the cache layout, on the fullest stage.
    """
    requested = math.ceil(request.total_bytes * request.gpu_memory_utilization)
    parallel = request.tensor_parallel_size * request.pipeline_parallel_size > 1
    runtime = (PARALLEL_RUNTIME_BYTES if parallel else RUNTIME_BYTES) + penalty_bytes(arch, request)
    compiled = COMPILE_BYTES // 2 if isinstance(arch.state, Mamba2) and request.max_capture_size else 0
    runtime += compiled
    lora = lora_bytes(arch, request.lora, request.dtype, request.tensor_parallel_size) if request.lora else 0
    resident = max(0, weights.bytes - request.cpu_offload_bytes) + lora
    activation = max(encoder_peak(arch, request), forward_peak(arch, request), sampler_peak(arch, request))
    graphs = graph_bytes(request)
    left = requested - resident - runtime - activation - graphs
    band = round(BAND_BYTES + BAND_SHARE * (activation + graphs)) + compiled
    band += weights.band + round(BAND_SHARE * (lora + min(request.cpu_offload_bytes, weights.bytes)))
    if request.rocm:
        # The estimate is fitted to CUDA. vLLM pads experts on ROCm: a log of Granite 4.0 H small has 31 % more weights.
        band += ROCM_BAND_BYTES + (round(ROCM_EXPERT_BAND * weights.bytes) if arch.moe else 0)
    confidence: Confidence = "known"
    if request.kv_cache_memory_bytes is not None:
        kv, source = request.kv_cache_memory_bytes, "kv_cache_memory_bytes is given"
    elif request.profiled_kv_bytes is not None:
        kv, source = request.profiled_kv_bytes, "profiled by an earlier start (calibration file)"
    else:
        kv, source, confidence = left, "estimated from the GPU's memory", "estimate"
    # With a given pool the engine skips the graph estimate, and so the temporary cache.
    profiles_graphs = request.max_capture_size > 0 and request.kv_cache_memory_bytes is None
    blocks = min(request.max_num_seqs, request.max_capture_size) if profiles_graphs else 0
    return MemoryBudget(
        total=request.total_bytes,
        requested=requested,
        weights=resident,
        lora=lora,
        runtime=runtime,
        activation=activation,
        graphs=graphs,
        kv=kv,
        band=band if confidence == "estimate" else 0,
        confidence=confidence,
        source=source,
        profiling_cache=blocks * bytes_per_block,
    )


def forward_peak(arch: Architecture, request: MemoryRequest) -> int:
    """Bytes of the widest layer's intermediates in one step of max_num_batched_tokens tokens, on one rank."""
    dtype_bytes = DTYPE_BYTES[arch.dtype if request.dtype == "auto" else request.dtype]
    per_token = 0.0
    if arch.mlp is not None:
        # A gated MLP has the output of its fused projection, twice as wide, beside the gated product.
        copies = arch.mlp.matrices + 1 if arch.mlp.matrices > 2 else arch.mlp.matrices
        per_token = copies * arch.mlp.intermediate * (1 + arch.mlp.wide_if_shared) * dtype_bytes
    if arch.moe is not None:
        width = arch.moe.latent or arch.hidden
        routed = arch.moe.experts_per_token * (arch.moe.matrices * arch.moe.intermediate + width)
        shared = arch.moe.matrices * arch.moe.shared_intermediate
        per_token = max(per_token, (routed + shared) * dtype_bytes)
    match arch.state:
        case Mamba2() as m:
            # The profiled step has no sequences, so it scans no chunks.
            conv = m.inner + 2 * m.groups * m.state
            per_token = max(per_token, (2 * m.inner + 2 * conv + m.heads) * dtype_bytes)
        case Mamba1() as m:
            per_token = max(per_token, 5 * m.inner * dtype_bytes)
        case GatedDeltaNet() as g:
            keys, values = g.key_heads * g.key_dim, g.value_heads * g.value_dim
            per_token = max(per_token, (6 * keys + 5 * values) * dtype_bytes)
        case ShortConv() as c:
            per_token = max(per_token, 5 * c.width * dtype_bytes)
        case KimiDelta() | Lightning() as linear:
            per_token = max(per_token, 11 * linear.inner * dtype_bytes)
    # The inputs of all layers stay: looked up, projected, and their sum.
    residual = (4 * arch.hidden + 3 * len(arch.layers) * arch.per_layer_input) * dtype_bytes
    return STEP_BYTES + round(request.max_num_batched_tokens * (per_token / request.tensor_parallel_size + residual))


def encoder_peak(arch: Architecture, request: MemoryRequest) -> int:
    """Bytes that encoding the largest image takes, with its output, which stays until the step has run.

    Source: vLLM gpu_model_runner.py, profile_run: the encoder is not split by tensor parallelism in its activations.
    """
    if (tower := arch.tower) is None:
        return 0
    dtype_bytes = DTYPE_BYTES[arch.dtype if request.dtype == "auto" else request.dtype]
    per_patch = 2 * tower.intermediate + ENCODER_VECTORS * tower.hidden
    output = tower.max_patches // tower.patches_per_token * arch.hidden
    return (tower.max_patches * per_patch + output) * dtype_bytes


def sampler_peak(arch: Architecture, request: MemoryRequest) -> int:
    """Bytes of sampling max_num_seqs rows of the whole vocabulary, on every rank."""
    rows = min(request.max_num_seqs, request.max_num_batched_tokens)
    return rows * arch.vocab * 4 * SAMPLER_COPIES


def penalty_bytes(arch: Architecture, request: MemoryRequest) -> int:
    """Bytes that the sampler keeps for penalties: a count per sequence and token, and a bit per token of the prompt.

    Source: vLLM v1/worker/gpu/sample/penalties.py, PenaltiesState: int32 [max_num_seqs, vocab] and
    int32 [max_num_seqs, ceil(vocab / 32)].
    """
    return 4 * request.max_num_seqs * (arch.vocab + math.ceil(arch.vocab / 32))


def graph_bytes(request: MemoryRequest) -> int:
    """Bytes that the engine sets aside for captured graphs: one per size for mixed steps, one per decode batch.

    The number of layers changes little: three models with 36 to 64 layers took 10 to 14 MiB for a mixed graph.
    """
    mixed = capture_sizes(request.max_capture_size)
    decode = capture_sizes(min(request.max_num_seqs, request.max_capture_size))
    return mixed * MIXED_GRAPH_BYTES + decode * DECODE_GRAPH_BYTES


def capture_sizes(largest: int) -> int:
    """Number of batch sizes that are captured up to `largest`: 1, 2, 4, every 8th below 256, every 16th from there.

    Source: vllm/config/vllm.py, _set_cudagraph_sizes.
    """
    small = sum(size <= largest for size in (1, 2, 4))
    return small + len(range(8, min(largest + 1, 256), 8)) + len(range(256, largest + 1, 16))
