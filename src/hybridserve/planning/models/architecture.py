"""The architecture of a model: which layers have a cache, the shape of a state, and the sizes of the weights.

It does not depend on the engine version, the GPU or the number of tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hybridserve.fast_dataclass import dataclass
from hybridserve.planning.models.quantization import UNQUANTIZED, Precision

# Families that vLLM does not run in float16, because they are not stable in it. Source: vLLM config/model.py.
NOT_IN_FLOAT16 = ("gemma2", "gemma3")
# Context of a model whose config names none.
UNLIMITED = 1 << 24
Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Latent:
    """Latent attention (MLA): all heads share one vector of `rank` numbers and `rope` position numbers per token."""

    rank: int
    rope: int
    nope: int
    """Numbers of a query and key head besides `rope`."""
    value: int
    query_rank: int | None = None
    gate: int = 0
    """Outputs of the gate on the attention's output."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Full attention with grouped queries. Every attention layer of a model has this shape.

    With `latent`, the cache has one head of `head_dim` numbers per token instead of keys and values.
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    """RMSNorm of `head_dim` weights on queries and on keys."""
    qk_norm_all_heads: bool = False
    """Those norms have a weight per element of all heads (OLMo)."""
    output_gate: bool = False
    """The query projection includes a gate and has twice the width (Qwen3-Next)."""
    latent: Latent | None = None


@dataclass(frozen=True, slots=True)
class Mamba2:
    """Mamba-2 mixer. State: conv (conv_kernel - 1, inner + 2 * groups * state) and ssm (heads, head_dim, state)."""

    heads: int
    head_dim: int
    groups: int
    state: int
    conv_kernel: int
    chunk: int
    bias: bool = False
    conv_bias: bool = True
    gated_norm: bool = True
    """RMSNorm of `inner` weights before the output projection."""

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Mamba1:
    """Mamba-1 mixer (Jamba, Mamba). State: conv (conv_kernel - 1, inner) and ssm (inner, state)."""

    inner: int
    state: int
    conv_kernel: int
    dt_rank: int
    bias: bool = False
    conv_bias: bool = True
    norms: bool = True
    """RMSNorms with weights on dt, B and C (Jamba)."""


@dataclass(frozen=True, slots=True)
class GatedDeltaNet:
    """Gated delta net (Qwen3-Next). State: conv (conv_kernel - 1, 2 * key_heads * key_dim + value_heads * value_dim)
    and recurrent (value_heads, value_dim, key_dim)."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int


@dataclass(frozen=True, slots=True)
class ShortConv:
    """Gated short convolution (LFM2). State: conv (conv_kernel - 1, width), nothing recurrent."""

    width: int
    conv_kernel: int
    bias: bool = False


@dataclass(frozen=True, slots=True)
class KimiDelta:
    """Kimi delta attention (KDA). State: conv (conv_kernel - 1, 3 * heads * head_dim) and, always in float32, recurrent
    (heads, head_dim, head_dim)."""

    heads: int
    head_dim: int
    conv_kernel: int
    decay_rank: int | None = None
    """Rank of the projection of the decay; None is a full one."""
    gate_rank: int | None = None
    """The same for the gate on the output."""
    flash_kernel: bool = False
    """Its prefill may use FlashKDA, which exports a checkpoint of the state (Kimi K3)."""

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Lightning:
    """Lightning attention (Ling 2.5). State: (heads, head_dim, head_dim), no conv."""

    heads: int
    head_dim: int
    norm_groups: int = 1
    """Groups of the norm on the output, which tensor parallelism divides."""
    qk_norm: bool = False

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim


StateMixer = Mamba2 | Mamba1 | GatedDeltaNet | ShortConv | KimiDelta | Lightning


@dataclass(frozen=True, slots=True)
class Mlp:
    """Dense feed-forward block."""

    intermediate: int
    matrices: int
    """3 with a gate (SwiGLU), 2 without (squared ReLU)."""
    bias: bool = False
    wide_if_shared: bool = False
    """It has twice the width in layers without a cache of their own (Gemma 4)."""

    def width(self, layer: Layer) -> int:
        return self.intermediate * (2 if self.wide_if_shared and layer.shared else 1)


@dataclass(frozen=True, slots=True)
class Moe:
    """Mixture of experts."""

    experts: int
    experts_per_token: int
    intermediate: int
    matrices: int
    """Per expert: 3 with a gate, 2 without."""
    bias: bool = False
    """Experts and router have biases (gpt-oss)."""
    shared_intermediate: int = 0
    """Total width of the shared experts; 0 is none."""
    latent: int | None = None
    """Width that experts work in, with one down and one up projection per layer (Nemotron 3 Super)."""
    correction_bias: bool = False
    """The router adds one learned bias per expert."""
    shared_gate: bool = False
    """The shared expert has a gate of `hidden` weights (Qwen3-Next)."""
    router_float32: bool = False
    """The router's weights are float32."""
    router_scales: bool = False
    """The router has a scale per input and per expert (Gemma 4)."""
    width_on_rank: int = 0
    """Tensor parallelism pads the part of an expert to at least this width (Kimi)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The parts of one layer. NemotronH has one mixer per layer; FalconH1 has attention, state and MLP in each."""

    attention: bool = False
    window: bool = False
    """The attention looks back at most `Architecture.window` tokens, and its cache is freed behind them."""
    shared: bool = False
    """The attention has no cache of its own: it uses that of the last layer of its kind that has one."""
    state: bool = False
    mlp: bool = False
    moe: bool = False
    norms: int = 1
    """RMSNorms of `hidden` weights."""


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision encoder with its projector, which every pipeline stage stores."""

    split: int
    """Weights that tensor parallelism divides."""
    whole: int
    """Weights that every rank stores."""
    hidden: int
    intermediate: int
    patches_per_token: int
    """Patches of the image that become one token."""
    max_patches: int
    """Most patches of one image: the profiling run encodes such an image."""
    heads: int = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft model of speculative decoding with weights of its own.

    Attributes:
        layers: those with a cache that is counted.
        window: tokens that its sliding-window layers look back.
        parameters: of all its layers and tables.
        bytes: size of its checkpoint, if it is known.
    """

    layers: tuple[Layer, ...]
    attention: Attention
    window: int | None
    parameters: int
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model without its weights, from `read_architecture`. Sizes are of the whole model, before sharding.

    Attributes:
        name: vLLM's registry name, such as ``NemotronHForCausalLM``.
        family: key of the rules that its vLLM classes share: nemotron_h, granite_hybrid, qwen3_next, transformer, ...
        dtype: meaning of `--dtype auto`: the checkpoint's type, or bfloat16 for a float32 checkpoint.
        default_context: context without `--max-model-len`, if that is not the longest (LongRoPE).
        kv_cache_dtype: meaning of `--kv-cache-dtype auto` if the checkpoint defines it; None is "as dtype".
        max_position_embeddings: longest context of config.json, with every RoPE scaling except YaRN.
        yarn_context: original context times factor of a YaRN config, which some engine versions use instead.
        ssm_dtype: meaning of `--mamba-ssm-cache-dtype auto` for the family; None is "as the conv state".
        marks_linear_attention: config.layer_types names `linear_attention`, which the CPU backend checks.
        attention_first: the class builds all attention layers before the others, which orders its cache groups.
        pipeline: the class supports pipeline parallelism.
        window: tokens that the attention of a sliding-window layer looks back, its own included.
        window_attention: the attention of those layers, if it has another shape (Gemma 4).
        shared: weights that layers share, as (divided by tensor parallelism, on every rank).
        per_layer_input: numbers of the embedding that each layer adds to its input; 0 is none (Gemma 4).
        per_layer_vocab: rows of the table of those embeddings.
        tower: the vision encoder.
        uncounted: parts of the model whose memory is not counted.
        weights_counted: the weights of all parts are counted.
        precision: how the checkpoint stores its weights.
        mtp: layers of the multi-token-prediction module that the checkpoint has.
        uses_mtp: they are loaded, as draft model.
        draft: another draft model.
    """

    name: str
    family: str
    hidden: int
    vocab: int
    tied_embeddings: bool
    dtype: Dtype
    max_position_embeddings: int
    layers: tuple[Layer, ...]
    attention: Attention | None
    state: StateMixer | None
    mlp: Mlp | None
    moe: Moe | None
    yarn_context: int | None = None
    default_context: int | None = None
    kv_cache_dtype: str | None = None
    ssm_dtype: Dtype | None = None
    marks_linear_attention: bool = False
    attention_first: bool = False
    pipeline: bool = True
    window: int | None = None
    window_attention: Attention | None = None
    shared: tuple[int, int] = (0, 0)
    per_layer_input: int = 0
    per_layer_vocab: int = 0
    tower: Tower | None = None
    uncounted: tuple[str, ...] = ()
    weights_counted: bool = True
    precision: Precision = UNQUANTIZED
    mtp: tuple[Layer, ...] = ()
    uses_mtp: bool = False
    draft: Draft | None = None

    @property
    def cached(self) -> Architecture:
        """With the layers of the draft, which come last and have caches of their own."""
        # Source: vLLM numbers the layers of an MTP module after the model's, and their specification is the same.
        drafts = (self.mtp if self.uses_mtp else ()) + (self.draft.layers if self.draft else ())
        return replace(self, layers=self.layers + drafts) if drafts else self

    def attention_of(self, layer: Layer) -> Attention | None:
        """The shape of this layer's attention."""
        return self.window_attention if layer.window and self.window_attention else self.attention

    @property
    def attention_layers(self) -> int:
        """Layers whose own attention cache grows with the sequence."""
        return sum(layer.attention and not (layer.window or layer.shared) for layer in self.layers)

    @property
    def looked_up(self) -> int:
        """Weights of tables of which a token reads one row."""
        table = self.per_layer_vocab * self.per_layer_input * len(self.layers)
        return table + (0 if self.tied_embeddings else self.vocab * self.hidden)

    @property
    def state_layers(self) -> int:
        return sum(layer.state for layer in self.layers)

    @property
    def hybrid(self) -> bool:
        return self.state is not None
