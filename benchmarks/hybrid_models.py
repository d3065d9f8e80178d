"""A hybrid model (NemotronH) and a transformer (Qwen3) of equal width and size.

    python benchmarks/hybrid_models.py --out /tmp/pair

Both have random weights, the demo model's tokenizer, and the same hidden size, heads and head size. The width of the
transformer's gated MLP makes the numbers of parameters equal within 1 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from hybridserve.planning.memory.weights import count_parameters
from hybridserve.planning.models import read_architecture

DEMO = Path(__file__).parents[1] / "src" / "hybridserve" / "demo_model"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, CONTEXT = 512, 8, 4, 64, 1024, 8192
# Of Nano 9B v2's 56 layers 27 are Mamba-2, 25 MLP and 4 attention: about the same shares in 16.
HYBRID_LAYERS = "M-M-M*-M-M-M-*-M"
TRANSFORMER_LAYERS = 8
_COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "vocab_size": VOCABULARY,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 4,
    "pad_token_id": 0,
    "dtype": "bfloat16",
}


def hybrid_config() -> dict[str, Any]:
    """config.json of the NemotronH model."""
    kinds = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
    return _COMMON | {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "layers_block_type": [kinds[letter] for letter in HYBRID_LAYERS],
        "num_hidden_layers": len(HYBRID_LAYERS),
        "intermediate_size": 4 * HIDDEN,
        "mamba_num_heads": 16,
        "mamba_head_dim": 64,
        "ssm_state_size": 64,
        "n_groups": 2,
        "conv_kernel": 4,
        "expand": 2,
        "chunk_size": 64,
        "mlp_hidden_act": "relu2",
        "mamba_ssm_cache_dtype": "float32",
    }


def transformer_config() -> dict[str, Any]:
    """config.json of a Qwen3 model of the same size."""
    wanted = count_parameters(read_architecture(hybrid_config()))

    def config(width: int) -> dict[str, Any]:
        return _COMMON | {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "num_hidden_layers": TRANSFORMER_LAYERS,
            "intermediate_size": width,
        }

    widths = range(256, 8 * HIDDEN, 32)
    return config(min(widths, key=lambda width: abs(count_parameters(read_architecture(config(width))) - wanted)))


def write(config: dict[str, Any], folder: Path, seed: int) -> int:
    """Write random weights, config and tokenizer. Returns the number of parameters."""
    import torch
    from transformers import NemotronHConfig, NemotronHForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    kind, model_class = {
        "nemotron_h": (NemotronHConfig, NemotronHForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[config["model_type"]]
    model = model_class(kind(**{key: value for key, value in config.items() if key != "architectures"}))
    model.to(torch.bfloat16).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"architectures": config["architectures"]}, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    return sum(parameter.numel() for parameter in model.parameters())


def write_pair(out: Path) -> dict[str, int]:
    """Write both models below `out`. Returns the number of parameters of each.

    Raises:
        SystemExit: the sizes differ by more than 1 %.
    """
    counts = {}
    for name, config in (("hybrid", hybrid_config()), ("transformer", transformer_config())):
        (out / name).mkdir(parents=True, exist_ok=True)
        counts[name] = write(config, out / name, seed=1)
    if abs(counts["hybrid"] / counts["transformer"] - 1) > 0.01:
        raise SystemExit(f"the models differ in size: {counts}")
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    print(write_pair(parser.parse_args().out))
