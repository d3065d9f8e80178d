"""An upper bound on throughput: bytes over bandwidth against FLOPs over peak, step by step.

It is a bound, not a forecast: it leaves out kernel launches, scheduling, sampling, communication between devices and
kernel inefficiency, so a real engine stays below it. It shows which resource is the limit, and how two models compare
with all else equal.

One decode step of B sequences at a context of L tokens moves and computes::

    bytes = weights + B * (L * kv_bytes_per_token + 2 * state_bytes)        (the state is read and written)
    FLOPs = B * (2 * active_parameters + 4 * attention_layers * heads * head_dim * L + state update)

A prefill of P tokens computes ``2 * active_parameters * P + 2 * attention_layers * heads * head_dim * P^2`` (causal)
plus the scan of the state. Each expert is read once: of E experts with k per token, a step of B tokens reads
``E * (1 - (1 - k/E)^B)``, assuming uniform routing.
"""

from __future__ import annotations

from typing import Literal

from hybridserve.catalog.accelerators import Accelerator
from hybridserve.errors import CatalogError
from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.memory.weights import WeightBytes, count_active_parameters
from hybridserve.planning.models import Architecture, GatedDeltaNet, KimiDelta, Lightning, Mamba1, Mamba2, ShortConv
from hybridserve.planning.models.quantization import UNQUANTIZED, Compute, Precision
from hybridserve.units import DTYPE_BYTES

Limit = Literal["memory bandwidth", "compute"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes moved and floating-point operations of one step, on one device."""

    bytes: float
    flops: float


@dataclass(frozen=True, slots=True)
class DevicePeaks:
    """Peaks of one device: bytes per second and FLOPs per second."""

    bandwidth: float
    flops: float

    def seconds(self, cost: Cost) -> float:
        return max(cost.bytes / self.bandwidth, cost.flops / self.flops)

    def limit(self, cost: Cost) -> Limit:
        return "memory bandwidth" if cost.bytes / self.bandwidth >= cost.flops / self.flops else "compute"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What one step of a model on one device depends on.

    Attributes:
        weights: on one device.
        kv_bytes_per_token, state_bytes: of one sequence, on one device.
        devices: tensor parallel size; communication is not counted.
    """

    arch: Architecture
    weights: WeightBytes
    kv_bytes_per_token: int
    state_bytes: int
    precision: Precision = UNQUANTIZED
    devices: int = 1


@dataclass(frozen=True, slots=True)
class ThroughputBound:
    """Bounds for a stream of equal requests that keeps `batch` sequences running.

    Attributes:
        output_tokens_per_s: over all sequences.
        inter_token_s: duration of one decode step at the mean context, the lower bound of inter-token latency.
        first_token_s: duration of one prefill alone on the device.
        prefill_share: share of the time spent in prefill.
        prefill_limit, decode_limit: the resource that limits each; the larger share of the time shows which one counts.
    """

    batch: int
    output_tokens_per_s: float
    inter_token_s: float
    first_token_s: float
    prefill_share: float
    prefill_limit: Limit
    decode_limit: Limit


def device_peaks(accelerator: Accelerator, compute: Compute = "none") -> DevicePeaks:
    """Peaks of an accelerator for weights that use these matrix units.

    Raises:
        CatalogError: the catalog has no bandwidth or FLOPs for it (a CPU).
    """
    bandwidth, flops = accelerator.bandwidth.gb_s, accelerator.compute.bf16_tflops
    if bandwidth is None or flops is None:
        raise CatalogError(
            "accelerator.name",
            f"the catalog has no bandwidth and FLOPs for {accelerator.id}",
            "choose a GPU: hybridserve plan --list",
        )
    if compute != "none" and accelerator.compute.fp8_tflops is not None:
        flops = accelerator.compute.fp8_tflops
        if compute == "nvfp4" and accelerator.major >= 10:
            flops *= 2
    return DevicePeaks(bandwidth * 1e9, flops * 1e12)


def decode_step(served: ServedModel, batch: int, context: float) -> Cost:
    """Cost of one token for each of `batch` sequences with a context of `context` tokens."""
    arch = served.arch
    attention = arch.attention
    flops = 2.0 * count_active_parameters(arch) + _state_flops(arch) * arch.state_layers
    if attention is not None:
        flops += 4.0 * arch.attention_layers * attention.heads * attention.head_dim * context
    return Cost(
        bytes=_weights_read(served, batch) + batch * (context * served.kv_bytes_per_token + 2 * served.state_bytes),
        flops=batch * flops / served.devices,
    )


def prefill(served: ServedModel, tokens: int) -> Cost:
    """Cost of one prompt of `tokens` tokens, with the weights read once."""
    arch = served.arch
    attention = arch.attention
    flops = tokens * (2.0 * count_active_parameters(arch) + _state_flops(arch) * arch.state_layers)
    if attention is not None:
        flops += 2.0 * arch.attention_layers * attention.heads * attention.head_dim * tokens * tokens
    return Cost(
        bytes=_weights_read(served, tokens) + tokens * served.kv_bytes_per_token + served.state_bytes,
        flops=flops / served.devices,
    )


def bound(served: ServedModel, device: DevicePeaks, batch: int, prompt: int, output: int) -> ThroughputBound:
    """The bounds for requests of `prompt` and `output` tokens, with `batch` of them running at all times."""
    step = decode_step(served, batch, prompt + output / 2)
    prompts = prefill(served, prompt)
    first = device.seconds(prompts)
    inter = device.seconds(step)
    busy = batch * first + output * inter
    return ThroughputBound(
        batch=batch,
        output_tokens_per_s=batch * output / busy,
        inter_token_s=inter,
        first_token_s=first,
        prefill_share=batch * first / busy,
        prefill_limit=device.limit(prompts),
        decode_limit=device.limit(step),
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two models' throughput bounds, and the part of it that comes from a larger batch.

    ``total = equal_batch * capacity``: the first factor compares both at the other model's batch, the second is the
    effect of the larger batch.
    """

    total: float
    equal_batch: float
    capacity: float
    ours: ThroughputBound
    theirs: ThroughputBound


def compare(
    ours: ServedModel, theirs: ServedModel, device: DevicePeaks, batches: tuple[int, int], prompt: int, output: int
) -> Ratio:
    """The ratio of the bounds of two models on one device, each at its own batch."""
    first = bound(ours, device, batches[0], prompt, output)
    second = bound(theirs, device, batches[1], prompt, output)
    level = bound(ours, device, batches[1], prompt, output)
    equal = level.output_tokens_per_s / second.output_tokens_per_s
    total = first.output_tokens_per_s / second.output_tokens_per_s
    return Ratio(total, equal, total / equal, first, second)


def _weights_read(served: ServedModel, tokens: int) -> float:
    """Bytes of weights that a step of `tokens` tokens reads: no embedding tables, and only the routed experts."""
    arch = served.arch
    dtype_bytes = DTYPE_BYTES[arch.dtype]
    size = float(served.weights.bytes)
    size -= arch.looked_up * dtype_bytes / served.devices
    if arch.moe is not None:
        expert = arch.moe.matrices * (arch.moe.latent or arch.hidden) * arch.moe.intermediate
        expert_bytes = expert * dict(served.precision.parts).get("experts", dtype_bytes) / served.devices
        idle = (1 - arch.moe.experts_per_token / arch.moe.experts) ** tokens
        size -= sum(layer.moe for layer in arch.layers) * arch.moe.experts * idle * expert_bytes
    return size


def _state_flops(arch: Architecture) -> float:
    """FLOPs of the state update of one token in one layer: decay, outer product, read-out; two each per element."""
    match arch.state:
        case Mamba2() as m:
            return 6.0 * m.inner * m.state
        case Mamba1() as m:
            return 6.0 * m.inner * m.state
        case GatedDeltaNet() as g:
            return 8.0 * g.value_heads * g.value_dim * g.key_dim
        case ShortConv() as c:
            return 2.0 * c.width * c.conv_kernel
        case KimiDelta() as k:
            return 8.0 * k.inner * k.head_dim
        case Lightning() as g:
            return 6.0 * g.inner * g.head_dim
    return 0.0
