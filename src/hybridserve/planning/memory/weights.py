"""Bytes of the weights of one rank, counted tensor by tensor as in vLLM's model classes.

For Nemotron-H the total equals the published count (8,888,227,328 for Nano 9B v2):
``2*V*h + M*[h*(2D+2GN+H) + (D+2GN)*(K+1) + 3H + D + D*h] + mlp*2*h*I + attn*[h*hd*(nh+2kv) + nh*hd*h] + layers*h + h``.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.models import (
    Architecture,
    Attention,
    GatedDeltaNet,
    KimiDelta,
    Layer,
    Lightning,
    Mamba1,
    Mamba2,
    ShortConv,
)
from hybridserve.planning.models.quantization import UNQUANTIZED, Precision
from hybridserve.planning.parallelism import split_layers
from hybridserve.units import DTYPE_BYTES

# vLLM pads the vocabulary to a multiple of this before it is split (vocab_parallel_embedding.py).
VOCAB_PADDING = 64
# Error of a size that is not the checkpoint's own: derived from its quantization config (published sizes of the 9B v2
# and 30B checkpoints are within 3 %), or from the vendor's usual recipe (the 4B FP8 loads 6.4 % more).
DERIVED_BAND = 0.03
RECIPE_BAND = 0.08

# Weights by how they are stored: a kind of linear layer, the head (`head`), what keeps the model's type (`plain`:
# embeddings, conv, norms, biases, routers), and what is float32 whatever that type (`float32`).
Elements = Counter[str]


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Weights on the fullest rank.

    Attributes:
        bytes: bytes on that rank.
        parameters: parameters of the whole model.
        band: the bytes may be this much more or less; 0 if they are counted or read at their source.
        how: where the size comes from, for the user.
    """

    bytes: int
    parameters: int
    band: int
    how: str


@lru_cache(maxsize=64)
def count_parameters(arch: Architecture) -> int:
    """Parameters of the whole model."""
    return _stage(arch, 0, len(arch.layers), tp=1, experts_over=1).total()


def count_active_parameters(arch: Architecture) -> int:
    """Parameters that the forward pass of one token reads: no embedding table, and only the routed experts."""
    total = count_parameters(arch) - arch.looked_up
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
    expert_parallel: bool = False,
    precision: Precision = UNQUANTIZED,
    published_bytes: int | None = None,
    confirmed: bool = True,
    source: str = "published size",
) -> WeightBytes:
    """Bytes of the weights on the fullest rank.

    Args:
        dtype: `auto` is the checkpoint's own.
        expert_parallel: each rank has whole experts instead of a part of each.
        precision: how the checkpoint is stored, whatever `dtype` is.
        published_bytes: size of the whole checkpoint without a draft module; it replaces a derived size, and a count
            that is not complete.
        confirmed: the size was read at its source; otherwise it keeps the error band of a derived size.
    """
    dtype_bytes = DTYPE_BYTES[arch.dtype if dtype == "auto" else dtype]
    tp, stages = tensor_parallel_size, split_layers(len(arch.layers), pipeline_parallel_size)
    sizes, start = [], 0
    for layers in stages:
        sizes.append(_bytes(arch, start, layers, precision, dtype_bytes, tp, expert_parallel))
        start += layers
    size, band, how = max(sizes), 0.0, "counted from the architecture"
    quantized, complete = precision != UNQUANTIZED, arch.weights_counted
    if published_bytes is not None and (quantized or not complete):
        size = round(size * published_bytes / _bytes(arch, 0, len(arch.layers), precision, dtype_bytes, 1, False))
        # How a known total is split over ranks is derived.
        band, how = DERIVED_BAND if tp * pipeline_parallel_size > 1 else 0.0, source
        if not confirmed:
            band, how = RECIPE_BAND, "reported size, not confirmed"
    elif quantized or not complete:
        band = DERIVED_BAND if precision.known and complete else RECIPE_BAND
        if precision.converted:
            how = f"derived from the architecture: vLLM converts them to {precision.name} while loading"
        elif quantized:
            of = (
                f"the checkpoint's {precision.name} layers" if precision.known else f"the usual {precision.name} recipe"
            )
            how = f"derived from {of}: the size is not known"
    band_bytes = round(band * size)
    if arch.uses_mtp:
        size += _mtp_on_rank(arch, precision, dtype_bytes, tp, expert_parallel)
    if arch.draft is not None:
        draft = arch.draft.bytes or arch.draft.parameters * dtype_bytes
        size += draft // tp
        band_bytes += 0 if arch.draft.bytes and tp == 1 else round(RECIPE_BAND * draft)
    return WeightBytes(size, count_parameters(arch), band_bytes, how)


def _bytes(
    arch: Architecture,
    start: int,
    layers: int,
    precision: Precision,
    dtype_bytes: int,
    tp: int,
    expert_parallel: bool,
) -> int:
    """Bytes of `layers` layers from `start` on, with the tables that their stage has."""
    over = tp if expert_parallel else 1
    elements = _stage(arch, start, layers, tp=tp, experts_over=over)
    sizes: dict[str, float] = {"float32": 4, **dict(precision.parts)}
    if precision.head is not None:
        sizes["head"] = precision.head
    total = sum(count * sizes.get(kind, dtype_bytes) for kind, count in elements.items())
    for index, part, size in precision.exceptions:
        if start <= index < start + layers:
            count = _layer(arch, arch.layers[index], tp, over)[part]
            total += count * ((dtype_bytes if size is None else size) - sizes.get(part, dtype_bytes))
    return round(total)


def mtp_bytes(arch: Architecture) -> int:
    """Bytes of the draft module in the checkpoint."""
    return _mtp_on_rank(arch, arch.precision, DTYPE_BYTES[arch.dtype], 1, False)


def _mtp_on_rank(arch: Architecture, precision: Precision, dtype_bytes: int, tp: int, expert_parallel: bool) -> int:
    """The draft module shares the tables of the model; it has a projection of the two inputs, and three norms."""
    sizes: dict[str, float] = {"float32": 4, **({} if precision.mtp_plain else dict(precision.parts))}
    # Ling's and Kimi's projection is on every rank.
    over = 1 if arch.attention and arch.attention.latent else tp
    total = (2 * arch.hidden * arch.hidden // over + 3 * arch.hidden) * float(dtype_bytes) if arch.mtp else 0.0
    for layer in arch.mtp:
        for kind, count in _layer(arch, layer, tp, tp if expert_parallel else 1).items():
            total += count * sizes.get(kind, dtype_bytes)
    return round(total)


def _stage(arch: Architecture, start: int, count: int, *, tp: int, experts_over: int) -> Elements:
    layers = arch.layers[start : start + count]
    # Every stage of a Gemma 4 builds the tables.
    first, last = (arch.family == "gemma4" or end for end in (start == 0, start + count == len(arch.layers)))
    total: Elements = Counter()
    for layer in dict.fromkeys(layers):
        number = layers.count(layer)
        for kind, size in _layer(arch, layer, tp, experts_over).items():
            total[kind] += size * number
    vocab = _rows(arch.vocab, tp)
    if first:
        total["plain"] += vocab * arch.hidden
    if last:
        total["head"] += 0 if first and arch.tied_embeddings else vocab * arch.hidden
        total["plain"] += arch.hidden
    total["plain"] += arch.shared[0] // tp + arch.shared[1]
    if width := arch.per_layer_input:
        every = width * len(arch.layers)
        total["plain"] += (_rows(arch.per_layer_vocab, tp) + arch.hidden // tp) * every + width
    if arch.tower:
        total["plain"] += arch.tower.split // tp + arch.tower.whole
    return total


def _rows(vocab: int, tp: int) -> int:
    """Rows of a table of tokens on one rank."""
    return vocab if tp == 1 else -(-vocab // VOCAB_PADDING) * VOCAB_PADDING // tp


def _layer(arch: Architecture, layer: Layer, tp: int, experts_over: int) -> Elements:
    """Weights of one layer on one rank."""
    # Every rank has the gate and the projection of the layer's own input.
    elements: Elements = Counter(plain=(layer.norms + 2 * arch.per_layer_input) * arch.hidden)
    # Zamba2's attention layers have the weights of the shared blocks.
    if layer.attention and arch.shared == (0, 0):
        elements.update(_attention(arch, arch.attention_of(layer), tp))
    if layer.state:
        elements.update(_state(arch, tp))
    if layer.mlp:
        elements.update(_mlp(arch, layer, tp))
    if layer.moe:
        elements.update(_moe(arch, tp, experts_over))
    return elements


def _attention(arch: Architecture, a: Attention | None, tp: int) -> Elements:
    if a is None:
        return Counter()
    heads = a.heads // tp
    if (m := a.latent) is not None:
        query = m.nope + m.rope
        down = m.rank + m.rope + (m.query_rank or 0)
        up = (m.query_rank or arch.hidden) * heads * query + m.rank * heads * (m.nope + m.value)
        return Counter(
            qkv=arch.hidden * (down + m.gate // tp) + up,
            attention_out=heads * m.value * arch.hidden,
            plain=m.rank + (m.query_rank or 0),
        )
    kv_heads = max(1, a.kv_heads // tp)
    qkv = (heads * (2 if a.output_gate else 1) + 2 * kv_heads) * a.head_dim
    plain = (qkv if a.qkv_bias else 0) + (arch.hidden if a.output_bias else 0)
    if a.qk_norm_all_heads:
        # The norms are not split.
        plain += (a.heads + a.kv_heads) * a.head_dim
    elif a.qk_norm:
        plain += 2 * a.head_dim
    return Counter(qkv=arch.hidden * qkv, attention_out=heads * a.head_dim * arch.hidden, plain=plain)


def _state(arch: Architecture, tp: int) -> Elements:
    h = arch.hidden
    match arch.state:
        case Mamba2() as m:
            inner, heads = m.inner // tp, m.heads // tp
            groups = m.groups // tp if m.groups % tp == 0 else 1
            conv = inner + 2 * groups * m.state
            project = inner + conv + heads
            plain = conv * m.conv_kernel + 2 * heads
            plain += conv if m.conv_bias else 0
            plain += project + h if m.bias else 0
            plain += inner if m.gated_norm else 0
            return Counter(state_in=h * project, state_out=inner * h, plain=plain, float32=heads)
        case Mamba1() as m:
            inner = m.inner // tp
            project = h * 2 * inner + inner * (m.dt_rank + 2 * m.state) + m.dt_rank * inner
            plain = inner * m.conv_kernel + 2 * inner + (m.dt_rank + 2 * m.state if m.norms else 0)
            plain += inner if m.conv_bias else 0
            plain += 2 * inner + h if m.bias else 0
            return Counter(state_in=project, state_out=inner * h, plain=plain, float32=inner * m.state)
        case GatedDeltaNet() as g:
            keys, values = g.key_heads * g.key_dim // tp, g.value_heads * g.value_dim // tp
            heads = g.value_heads // tp
            return Counter(
                state_in=h * (2 * keys + 2 * values),
                state_gates=h * 2 * heads,
                state_out=values * h,
                plain=(2 * keys + values) * g.conv_kernel + 2 * heads + g.value_dim,
            )
        case ShortConv() as c:
            width = c.width // tp
            plain = width * c.conv_kernel + (4 * width + h if c.bias else 0)
            return Counter(state_in=3 * h * width, state_out=h * width, plain=plain)
        case KimiDelta() as k:
            inner, heads = k.inner // tp, k.heads // tp
            project = h * (3 * inner + heads)
            for rank in (k.decay_rank, k.gate_rank):
                project += h * inner if rank is None else (h + inner) * rank
            if k.gate_rank is None and k.decay_rank is not None:
                # K3's fused projection is padded to a multiple of 16 rows.
                project += h * (-(4 * inner + k.decay_rank + heads) % 16)
            float32 = inner * (3 * k.conv_kernel + 1) + heads
            return Counter(state_in=project, state_out=h * inner, plain=k.head_dim, float32=float32)
        case Lightning() as g:
            inner = g.inner // tp
            plain = inner + (2 * g.head_dim if g.qk_norm else 0)
            return Counter(state_in=4 * h * inner, state_out=h * inner, plain=plain)
    return Counter()


def _mlp(arch: Architecture, layer: Layer, tp: int) -> Elements:
    if (m := arch.mlp) is None:
        return Counter()
    width = m.width(layer) // tp
    bias = (m.matrices - 1) * width + arch.hidden if m.bias else 0
    return Counter(mlp=m.matrices * arch.hidden * width, plain=bias)


def _moe(arch: Architecture, tp: int, experts_over: int) -> Elements:
    if (m := arch.moe) is None:
        return Counter()
    width = m.latent or arch.hidden
    experts = -(-m.experts // experts_over)
    intermediate = m.intermediate if experts_over > 1 or tp == 1 else max(m.intermediate // tp, m.width_on_rank)
    router = arch.hidden * m.experts
    biases = m.experts + experts * ((m.matrices - 1) * intermediate + arch.hidden) if m.bias else 0
    biases += arch.hidden + m.experts if m.router_scales else 0
    return Counter(
        experts=experts * m.matrices * width * intermediate,
        shared=m.matrices * arch.hidden * (m.shared_intermediate // tp),
        latent=2 * arch.hidden * m.latent if m.latent else 0,
        plain=(0 if m.router_float32 else router) + (arch.hidden if m.shared_gate else 0) + biases,
        float32=(router if m.router_float32 else 0) + (m.experts if m.correction_bias else 0),
    )
