"""Bytes of the weights of one rank, counted tensor by tensor as in vLLM's model classes.

For Nemotron-H the total equals the published count (8,888,227,328 for Nano 9B v2):
``2*V*h + M*[h*(2D+2GN+H) + (D+2GN)*(K+1) + 3H + D + D*h] + mlp*2*h*I + attn*[h*hd*(nh+2kv) + nh*hd*h] + layers*h + h``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.models import Architecture, GatedDeltaNet, Layer, Mamba1, Mamba2, ShortConv
from hybridserve.planning.parallelism import split_layers
from hybridserve.units import DTYPE_BYTES

Quantization = Literal["none", "fp8", "nvfp4"]

# Bytes per weight of a quantized matrix: FP8 one; NVFP4 half, and one FP8 scale per 16 weights.
QUANTIZED_BYTES = {"fp8": 1.0, "nvfp4": 0.5625}
# vLLM pads the vocabulary to a multiple of this before it is split (vocab_parallel_embedding.py).
VOCAB_PADDING = 64
# Error of a size derived from the quantization recipe, against published sizes (9B v2 FP8 and NVFP4, 30B FP8).
QUANTIZED_BAND = 0.03


@dataclass(frozen=True, slots=True)
class Elements:
    """Number of weights by how they are stored."""

    matrices: int = 0
    """Linear layers that the vendors' FP8 and NVFP4 checkpoints quantize."""
    plain: int = 0
    """Kept in the model's type: embeddings, attention, conv, norms, biases, routers."""
    float32: int = 0
    """Kept in float32 whatever the model's type."""

    def __add__(self, other: Elements) -> Elements:
        return Elements(self.matrices + other.matrices, self.plain + other.plain, self.float32 + other.float32)

    @property
    def total(self) -> int:
        return self.matrices + self.plain + self.float32

    def bytes(self, dtype_bytes: int, quantization: Quantization = "none") -> int:
        """Their size in bytes."""
        matrix = QUANTIZED_BYTES.get(quantization, dtype_bytes)
        return round(self.matrices * matrix) + self.plain * dtype_bytes + self.float32 * 4


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Weights on the fullest rank.

    Attributes:
        bytes: bytes on that rank.
        parameters: parameters of the whole model.
        exact: counted, not derived from a quantization recipe.
        how: where the size comes from, for the user.
    """

    bytes: int
    parameters: int
    exact: bool
    how: str


@lru_cache(maxsize=64)
def count_parameters(arch: Architecture) -> int:
    """Parameters of the whole model."""
    return _stage(arch, arch.layers, tp=1, first=True, last=True).total


def count_active_parameters(arch: Architecture) -> int:
    """Parameters that the forward pass of one token reads: no embedding table, and only the routed experts."""
    total = count_parameters(arch)
    if not arch.tied_embeddings:
        total -= arch.vocab * arch.hidden
    if arch.moe is not None:
        width = arch.moe.latent or arch.hidden
        expert = arch.moe.matrices * width * arch.moe.intermediate
        skipped = arch.moe.experts - arch.moe.experts_per_token
        total -= sum(layer.moe for layer in arch.layers) * expert * skipped
    return total


@lru_cache(maxsize=64)
def count_weights(
    arch: Architecture,
    *,
    dtype: str = "auto",
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    quantization: Quantization = "none",
    published_bytes: int | None = None,
    confirmed: bool = True,
) -> WeightBytes:
    """Bytes of the weights on the fullest rank.

    Args:
        dtype: `auto` is the checkpoint's own.
        quantization: how the checkpoint is stored, whatever `dtype` is.
        published_bytes: size of a quantized checkpoint as published; it replaces the derived size.
        confirmed: the size was read at its source; otherwise it keeps the error band of a derived size.
    """
    dtype_bytes = DTYPE_BYTES[arch.dtype if dtype == "auto" else dtype]
    stages = split_layers(len(arch.layers), pipeline_parallel_size)
    sizes, start = [], 0
    for rank, layers in enumerate(stages):
        elements = _stage(
            arch,
            arch.layers[start : start + layers],
            tp=tensor_parallel_size,
            first=rank == 0,
            last=rank == len(stages) - 1,
        )
        sizes.append(elements.bytes(dtype_bytes, quantization))
        start += layers
    parameters = count_parameters(arch)
    if quantization == "none":
        return WeightBytes(max(sizes), parameters, not arch.uncounted, "counted from the architecture")
    if published_bytes is None:
        return WeightBytes(max(sizes), parameters, False, f"derived from the {quantization} recipe")
    total = _stage(arch, arch.layers, tp=1, first=True, last=True).bytes(dtype_bytes, quantization)
    size = round(max(sizes) * published_bytes / total)
    if not confirmed:
        return WeightBytes(size, parameters, False, "reported size, not confirmed")
    return WeightBytes(size, parameters, tensor_parallel_size == 1, "published size")


def _stage(arch: Architecture, layers: tuple[Layer, ...], *, tp: int, first: bool, last: bool) -> Elements:
    attention = _attention(arch, tp)
    state = _state(arch, tp)
    mlp = _mlp(arch, tp)
    moe = _moe(arch, tp)
    kinds = {kind: layers.count(kind) for kind in dict.fromkeys(layers)}
    total = Elements()
    for kind, count in kinds.items():
        layer = Elements(plain=kind.norms * arch.hidden)
        for present, part in ((kind.attention, attention), (kind.state, state), (kind.mlp, mlp), (kind.moe, moe)):
            layer += part if present else Elements()
        total += Elements(layer.matrices * count, layer.plain * count, layer.float32 * count)
    vocab = arch.vocab if tp == 1 else -(-arch.vocab // VOCAB_PADDING) * VOCAB_PADDING // tp
    tables = int(first) + int(last) - int(first and last and arch.tied_embeddings)
    tower = arch.tower.split // tp + arch.tower.whole if arch.tower else 0
    return total + Elements(plain=tables * vocab * arch.hidden + (arch.hidden if last else 0) + tower)


def _attention(arch: Architecture, tp: int) -> Elements:
    if (a := arch.attention) is None:
        return Elements()
    heads = a.heads // tp
    kv_heads = max(1, a.kv_heads // tp)
    qkv = (heads * (2 if a.output_gate else 1) + 2 * kv_heads) * a.head_dim
    plain = arch.hidden * qkv + heads * a.head_dim * arch.hidden
    plain += qkv if a.qkv_bias else 0
    plain += arch.hidden if a.output_bias else 0
    if a.qk_norm_all_heads:
        # The norms are not split.
        plain += (a.heads + a.kv_heads) * a.head_dim
    elif a.qk_norm:
        plain += 2 * a.head_dim
    # Checkpoints of pure transformers quantize attention as well; the recipes of hybrids do not.
    return Elements(plain=plain) if arch.hybrid else Elements(matrices=plain)


def _state(arch: Architecture, tp: int) -> Elements:
    h = arch.hidden
    match arch.state:
        case Mamba2() as m:
            inner, heads = m.inner // tp, m.heads // tp
            groups = m.groups // tp if m.groups % tp == 0 else 1
            conv = inner + 2 * groups * m.state
            project = inner + conv + heads
            matrices = h * project + inner * h
            plain = conv * m.conv_kernel + 2 * heads
            plain += conv if m.conv_bias else 0
            plain += project + h if m.bias else 0
            plain += inner if m.gated_norm else 0
            return Elements(matrices, plain, heads)
        case Mamba1() as m:
            inner = m.inner // tp
            matrices = h * 2 * inner + inner * (m.dt_rank + 2 * m.state) + m.dt_rank * inner + inner * h
            # Jamba normalizes dt, B and C.
            plain = inner * m.conv_kernel + inner + m.dt_rank + 2 * m.state
            plain += inner if m.conv_bias else 0
            plain += 2 * inner + h if m.bias else 0
            return Elements(matrices, plain, inner * m.state + inner)
        case GatedDeltaNet() as g:
            keys, values = g.key_heads * g.key_dim // tp, g.value_heads * g.value_dim // tp
            heads = g.value_heads // tp
            matrices = h * (2 * keys + 2 * values) + h * 2 * heads + values * h
            return Elements(matrices, (2 * keys + values) * g.conv_kernel + 2 * heads + g.value_dim)
        case ShortConv() as c:
            width = c.width // tp
            return Elements(4 * h * width, width * c.conv_kernel + (4 * width + h if c.bias else 0))
    return Elements()


def _mlp(arch: Architecture, tp: int) -> Elements:
    if (m := arch.mlp) is None:
        return Elements()
    width = m.intermediate // tp
    return Elements(
        matrices=m.matrices * arch.hidden * width,
        plain=(m.matrices - 1) * width + arch.hidden if m.bias else 0,
    )


def _moe(arch: Architecture, tp: int) -> Elements:
    if (m := arch.moe) is None:
        return Elements()
    width = m.latent or arch.hidden
    matrices = m.experts * m.matrices * width * (m.intermediate // tp)
    matrices += m.matrices * arch.hidden * (m.shared_intermediate // tp)
    matrices += 2 * arch.hidden * m.latent if m.latent else 0
    plain = arch.hidden * m.experts + (arch.hidden if m.shared_gate else 0)
    return Elements(matrices, plain, m.experts if m.correction_bias else 0)
