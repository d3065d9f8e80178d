"""Memory of LoRA slots: the engine allocates the matrices of every slot while it loads the model.

Each linear layer has, for each slot, A of rank x inputs and B of outputs x rank, in the model's type. Tensor
parallelism divides the outputs of layers that split them, or the inputs of layers that split those; the other matrix is
whole.
Source: vLLM lora/layers.
"""

from __future__ import annotations

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.models import (
    Architecture,
    GatedDeltaNet,
    KimiDelta,
    Layer,
    Lightning,
    Mamba1,
    Mamba2,
    ShortConv,
)
from hybridserve.units import DTYPE_BYTES

# (inputs, outputs) of a linear layer that splits its outputs, or (False) its inputs.
Linear = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class LoraSlots:
    """Adapters in device memory at once (`max_loras`), and their largest rank (`max_lora_rank`)."""

    count: int
    rank: int


def lora_bytes(arch: Architecture, slots: LoraSlots, dtype: str, tp: int) -> int:
    """Bytes of all slots on one rank, without the head."""
    numbers = 0
    for layer in dict.fromkeys(arch.layers):
        numbers += arch.layers.count(layer) * sum(
            copies * (inputs + outputs // tp if splits_outputs else inputs // tp + outputs)
            for copies, (inputs, outputs, splits_outputs) in _linears(arch, layer)
        )
    dtype_bytes = DTYPE_BYTES[arch.dtype if dtype == "auto" else dtype]
    return numbers * slots.rank * slots.count * dtype_bytes


def _linears(arch: Architecture, layer: Layer) -> list[tuple[int, Linear]]:
    """The linear layers of one layer, each with its number of copies."""
    h, found = arch.hidden, list[tuple[int, Linear]]()
    if layer.attention and (a := arch.attention_of(layer)):
        queries = a.heads * a.head_dim * (2 if a.output_gate else 1)
        found += [(1, (h, queries, True)), (2, (h, a.kv_heads * a.head_dim, True))]
        found.append((1, (a.heads * a.head_dim, h, False)))
    if layer.state:
        inner, outputs = _mixer(arch)
        found += [(1, (h, outputs, True)), (1, (inner, h, False))]
    if layer.mlp and (mlp := arch.mlp):
        found += [(mlp.matrices - 1, (h, mlp.width(layer), True)), (1, (mlp.width(layer), h, False))]
    if layer.moe and (moe := arch.moe):
        width = moe.latent or h
        for copies, inputs, size in ((moe.experts, width, moe.intermediate), (1, h, moe.shared_intermediate)):
            if size:
                found += [(copies * (moe.matrices - 1), (inputs, size, True)), (copies, (size, inputs, False))]
    return found


def _mixer(arch: Architecture) -> tuple[int, int]:
    """Inner width and outputs of the input projection."""
    match arch.state:
        case Mamba2() as m:
            return m.inner, 2 * m.inner + 2 * m.groups * m.state + m.heads
        case Mamba1() as m:
            return m.inner, 2 * m.inner
        case GatedDeltaNet() as g:
            values = g.value_heads * g.value_dim
            return values, 2 * g.key_heads * g.key_dim + 2 * values + 2 * g.value_heads
        case ShortConv() as c:
            return c.width, 3 * c.width
        case KimiDelta() as k:
            return k.inner, 3 * k.inner + k.heads
        case Lightning() as g:
            return g.inner, 3 * g.inner
    return 0, 0
