"""Read config.json field by field; errors name the missing or wrong field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn, cast

from hybridserve.errors import CatalogError
from hybridserve.planning.models.architecture import Attention, Dtype, Latent, Mamba2, Mlp, Moe

MAX_LAYERS = 10_000
# Families whose config class has a default for the head size that is not hidden_size / num_attention_heads.
OWN_HEAD_DIM = ("Qwen3", "GptOss", "Gemma")


class Fields:
    """A config.json. Methods take a field's names, newest spelling first, and raise `CatalogError` with the name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @property
    def config(self) -> Mapping[str, Any]:
        """All fields."""
        return self._config

    def get(self, *names: str) -> Any:
        """The first of these fields that is present and not null."""
        return next((value for name in names if (value := self._config.get(name)) is not None), None)

    def integer(self, *names: str, default: int | None = None, minimum: int = 1) -> int:
        value = self.get(*names)
        if value is None:
            if default is None or default < minimum:
                self.fail(names[0], "is missing", "use the complete config.json of the checkpoint")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self.fail(names[0], f"is {value!r}", f"an integer of at least {minimum}")
        return value

    def boolean(self, *names: str, default: bool) -> bool:
        value = self.get(*names)
        if value is not None and not isinstance(value, bool):
            self.fail(names[0], f"is {value!r}", "true or false")
        return default if value is None else value

    def names(self, *names: str) -> list[str]:
        value = self.get(*names)
        if value is None:
            self.fail(names[0], "is missing", "use the complete config.json of the checkpoint")
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.fail(names[0], f"is {value!r}", "a list of names")
        return cast(list[str], value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.get(name)
        if not isinstance(value, Mapping):
            self.fail(name, "is missing" if value is None else f"is {value!r}", "a mapping")
        return value

    def numbers(self, name: str) -> list[int]:
        """A list of integers that may be left out."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            self.fail(name, f"is {value!r}", "a list of integers")
        return cast(list[int], value)

    def fail(self, name: str, what: str, fix: str) -> NoReturn:
        raise CatalogError(f"config.json: {name}", what, fix)

    @property
    def layer_count(self) -> int:
        """Number of layers. It is limited because each layer becomes an object."""
        count = self.integer("num_hidden_layers")
        if count > MAX_LAYERS:
            self.fail("num_hidden_layers", f"is {count}", f"an integer of at most {MAX_LAYERS}")
        return count

    def part(self, *names: str, name: str | None = None) -> Fields:
        """The config of the model `name` inside a wrapper, with what the wrapper's own config states for it."""
        part = self.get(*names)
        if not isinstance(part, Mapping):
            self.fail(names[0], f"is {part!r}", "the config of the language model")
        shared = ("dtype", "torch_dtype", "quantization_config", "tie_word_embeddings")
        outer = {name: self._config[name] for name in shared if name in self._config}
        return Fields({**outer, **part, "architectures": [name or self.architecture]})

    def with_default(self, name: str, value: Any) -> Fields:
        """The same config with a value for a field that is missing."""
        return Fields({name: value, **self._config})

    def attention(self, *head_dim: str, **options: bool) -> Attention:
        """Attention with grouped queries; `head_dim` names the field of the head size, if the family has one."""
        heads = self.integer("num_attention_heads")
        if head_dim and self.get(*head_dim) is not None:
            size = self.integer(*head_dim)
        elif head_dim and self.architecture.startswith(OWN_HEAD_DIM):
            self.fail(head_dim[0], "is missing", "use the complete config.json of the checkpoint")
        elif heads > (hidden := self.integer("hidden_size")):
            self.fail("num_attention_heads", f"is {heads}", f"at most hidden_size, {hidden}")
        else:
            size = hidden // heads
        kv_heads = self.integer("num_key_value_heads", default=heads)
        return replace(Attention(heads=heads, kv_heads=kv_heads, head_dim=size), **cast(dict[str, Any], options))

    def latent_attention(self, *, gate: str | None = None) -> Attention:
        """Latent attention (MLA); `gate` is the kind of gate on its output: one per head, or one per element."""
        heads, value = self.integer("num_attention_heads"), self.integer("v_head_dim")
        rank, rope = self.integer("kv_lora_rank"), self.integer("qk_rope_head_dim")
        if gate not in (None, "head_wise", "element_wise"):
            self.fail("gated_attention_proj_granularity_type", f"is {gate!r}", "one of head_wise, element_wise")
        latent = Latent(
            rank=rank,
            rope=rope,
            nope=self.integer("qk_nope_head_dim"),
            value=value,
            query_rank=None if self.get("q_lora_rank") is None else self.integer("q_lora_rank"),
            gate={None: 0, "head_wise": heads, "element_wise": heads * value}[gate],
        )
        return Attention(heads=heads, kv_heads=1, head_dim=rank + rope, latent=latent)

    def mlp(self, **options: bool) -> Mlp:
        """A feed-forward block with a gate."""
        return Mlp(self.integer("intermediate_size"), matrices=3, **options)

    def moe(self, *intermediate: str, shared_intermediate: int = 0, **options: bool) -> Moe:
        """Experts with a gate; `intermediate` names the field of their width."""
        return Moe(
            experts=self.integer("num_experts", "num_local_experts"),
            experts_per_token=self.integer("num_experts_per_tok", "num_experts_per_token"),
            intermediate=self.integer(*intermediate),
            matrices=3,
            shared_intermediate=shared_intermediate,
            **options,
        )

    def sparse_layers(self, count: int, *, default_experts: int | None = None) -> list[bool]:
        """Which layers have experts, in the Qwen families' fields."""
        experts = self.integer("num_experts", default=default_experts, minimum=0)
        step, dense = self.integer("decoder_sparse_step", default=1), self.numbers("mlp_only_layers")
        return [experts > 0 and i not in dense and (i + 1) % step == 0 for i in range(count)]

    def dtype_of(self, name: str) -> Dtype | None:
        """A number type that the config may state."""
        dtype = self.get(name)
        if dtype not in (None, "float32", "float16", "bfloat16"):
            self.fail(name, f"is {dtype!r}", "one of float32, float16, bfloat16")
        return cast("Dtype | None", dtype)

    def common(self, family: str) -> dict[str, Any]:
        """The arguments of `Architecture` that every family reads in the same way."""
        return {
            "name": self.architecture,
            "family": family,
            "hidden": self.integer("hidden_size"),
            "vocab": self.integer("vocab_size"),
            "tied_embeddings": self.boolean("tie_word_embeddings", default=False),
            "dtype": self.dtype,
            "max_position_embeddings": self.max_position_embeddings,
            "yarn_context": self.yarn_context,
            "default_context": self.default_context,
        }

    def mamba2(self, inner: int, *, gated_norm: bool = True) -> Mamba2:
        """The mixer of families that use Mamba's own field names; `inner` is its width."""
        heads, head_dim = self.integer("mamba_n_heads"), self.get("mamba_d_head")
        if inner % heads or head_dim not in (None, "auto", inner // heads):
            self.fail("mamba_d_head", f"is {head_dim!r}", f"mamba_n_heads * mamba_d_head = {inner}")
        return Mamba2(
            heads=heads,
            head_dim=inner // heads,
            groups=self.integer("mamba_n_groups"),
            state=self.integer("mamba_d_state"),
            conv_kernel=self.integer("mamba_d_conv", minimum=2),
            chunk=self.integer("mamba_chunk_size", default=256),
            bias=self.boolean("mamba_proj_bias", default=False),
            conv_bias=self.boolean("mamba_conv_bias", default=True),
            gated_norm=gated_norm,
        )

    @property
    def architecture(self) -> str:
        return self.names("architectures")[0]

    @property
    def dtype(self) -> Dtype:
        """The meaning of `--dtype auto`: float32 checkpoints run in bfloat16."""
        value = self.get("dtype", "torch_dtype")
        if value is None:
            self.fail("dtype", "is missing", "one of float32, float16, bfloat16")
        name = str(value).removeprefix("torch.")
        if name not in ("float32", "float16", "bfloat16"):
            self.fail("dtype", f"is {value!r}", "one of float32, float16, bfloat16")
        return "bfloat16" if name == "float32" else cast(Dtype, name)

    @property
    def max_position_embeddings(self) -> int:
        """Longest context, with all RoPE scaling except YaRN. Source: vLLM config/model.py, _get_and_verify_max_len."""
        # The engine prefers the other name where a config has both.
        limit = self.get("model_max_length")
        name = "max_position_embeddings" if limit is None else "model_max_length"
        length, factor = self.integer(name), 1.0
        for kind, rope in self._scalings():
            if kind not in ("su", "longrope", "llama3", "yarn"):
                stated = rope.get("factor", factor)
                # The engine takes a null factor for 1.
                factor = 1.0 if stated is None else self._positive(rope, "factor", factor)
        return int(length * factor)

    @property
    def yarn_context(self) -> int | None:
        """Original context times factor of a YaRN config; None for any other."""
        for kind, rope in self._scalings():
            if kind == "yarn":
                original = self._positive(rope, "original_max_position_embeddings")
                return int(original * self._positive(rope, "factor"))
        return None

    @property
    def default_context(self) -> int | None:
        """The context without `--max-model-len`: LongRoPE keeps the original one; None is the longest."""
        if not any(kind == "longrope" for kind, _ in self._ropes()):
            return None
        original = self.get("original_max_position_embeddings")
        return None if original is None else self.integer("original_max_position_embeddings")

    def _scalings(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The kinds of RoPE scaling that lengthen the context; Gemma 3 states its length with them."""
        return [] if self.architecture.startswith("Gemma3") else self._ropes()

    def _ropes(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The kinds of RoPE scaling with their parameters; transformers 5 may have one for each kind of layer."""
        rope = self.get("rope_parameters", "rope_scaling")
        if rope is None:
            return []
        if not isinstance(rope, Mapping):
            self.fail(self._rope_name, f"is {rope!r}", "a mapping")
        nested = [part for part in rope.values() if isinstance(part, Mapping)]
        return [(str(part.get("rope_type", part.get("type", "default"))), part) for part in nested or [rope]]

    @property
    def _rope_name(self) -> str:
        return "rope_scaling" if self.get("rope_parameters") is None else "rope_parameters"

    def _positive(self, rope: Mapping[str, Any], name: str, default: float | None = None) -> float:
        value = rope.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            self.fail(
                f"{self._rope_name}.{name}", "is missing" if value is None else f"is {value!r}", "a positive number"
            )
        return float(value)
