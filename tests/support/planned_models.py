"""The fields of real models' configurations that the planner reads, so that tests do not depend on the catalog."""

from __future__ import annotations

from typing import Any

from hybridserve.catalog.accelerators import accelerator
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.deployment import Deployment
from hybridserve.planning.models import Architecture, read_architecture

NANO_9B: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
    "num_hidden_layers": 56,
    "hidden_size": 4480,
    "intermediate_size": 15680,
    "vocab_size": 131072,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 80,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "chunk_size": 128,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "use_conv_bias": True,
    "use_bias": False,
    "mlp_bias": False,
    "attention_bias": False,
    "mlp_hidden_act": "relu2",
}
NANO_4B: dict[str, Any] = {
    **NANO_9B,
    "hybrid_override_pattern": "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-",
    "num_hidden_layers": 42,
    "hidden_size": 3136,
    "intermediate_size": 12544,
    "mamba_num_heads": 96,
    "max_position_embeddings": 262144,
}
QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


def arch_of(config: dict[str, Any]) -> Architecture:
    return read_architecture(config)


def deployment_of(config: dict[str, Any], gpu: str, **changes: Any) -> Deployment:
    """A deployment with nothing set; keywords are fields of the deployment or of its cache request."""
    cache = {name: changes.pop(name) for name in list(changes) if name in CacheRequest.__dataclass_fields__}
    own = {name: value for name, value in cache.items() if name in Deployment.__dataclass_fields__}
    return Deployment(
        model="model",
        arch=arch_of(config),
        accelerator=accelerator(gpu),
        cache=CacheRequest(kv_bytes=0, **cache),
        **changes,
        **own,
    )
