"""Random cases for the differential suite; like `planner_cases`, without vLLM and torch."""

from __future__ import annotations

import random
from typing import Any

from planner_cases import Case
from planner_models import (
    NEMOTRON_MTP,
    falcon_h1,
    falcon_mamba,
    gemma3,
    gemma4,
    gemma4_shared,
    gpt_oss,
    granite,
    jamba,
    kimi_linear,
    lfm2,
    lfm2_moe,
    ling,
    mamba,
    mamba2,
    nemotron_h,
    new_spelling,
    olmo_hybrid,
    qwen3,
    qwen3_5,
    qwen3_next,
    zamba2,
)


def drawn(count: int, seed: int) -> list[Case]:
    """Cases drawn at random; the same seed gives the same cases."""
    draw = random.Random(seed)
    return [_draw(draw, f"random {seed}.{number}") for number in range(count)]


def _draw(draw: random.Random, name: str) -> Case:
    family = draw.choice(FAMILIES)
    config = _DRAWERS[family](draw)
    text = config.get("text_config", config)
    text["dtype" if "dtype" in text else "torch_dtype"] = draw.choice(("bfloat16", "bfloat16", "float16", "float32"))
    if family != "mamba":
        text["max_position_embeddings"] = draw.choice((1024, 4096, 16384, 131072))
    platform = "cuda" if family in GPU_ONLY else draw.choice(("cuda", "cpu"))
    request: dict[str, Any] = {"platform": platform, "kv_bytes": int(2 ** draw.uniform(24, 35))}

    def sometimes(chance: float, field: str, *values: Any) -> None:
        if draw.random() < chance:
            request[field] = draw.choice(values)

    sometimes(0.2, "dtype", "float32", "float16", "bfloat16")
    sometimes(0.2, "kv_cache_dtype", "fp8", "fp8_e4m3")
    sometimes(0.3, "mamba_ssm_cache_dtype", "float32", "float16", "bfloat16")
    sometimes(0.15, "mamba_cache_dtype", "float32", "float16", "bfloat16")
    sometimes(0.3, "tensor_parallel_size", 2, 2, 4, 8, 3)
    sometimes(0.2, "pipeline_parallel_size", 2, 2, 3)
    sometimes(0.15, "block_size", 32, 64, 128, 256, 1024)
    sometimes(0.3, "enable_prefix_caching", False)
    sometimes(0.3, "mamba_cache_mode", "align", "align", "none", "all")
    sometimes(0.1, "mamba_block_size", 128, 512, 1024)
    sometimes(0.15, "prefix_match_unit", 16, 32, 48, 64)
    sometimes(0.6, "max_model_len", -1, 256, 1000, 1024, 4096, 16384)
    sometimes(0.2, "max_num_seqs", 8, 64, 256, 1024)
    sometimes(0.2, "num_speculative_tokens", 1, 2, 5)
    sometimes(0.1, "num_gpu_blocks_override", 2, 50, 5000)
    sometimes(0.1, "full_cudagraphs", False)
    if platform == "cpu":
        sometimes(0.3, "avx512_bf16", True)
    else:
        sometimes(0.5, "compute_capability", "8.0", "8.9", "9.0", "9.0", "10.0", "10.3", "12.0", "12.1")
    if family == "nemotron_h":
        sometimes(0.1, "use_replayssm", True)
        sometimes(0.1, "replayssm_buffer_len", 8, 32)
        if draw.random() < 0.3:
            config = new_spelling(config)
    case = {"name": name, "config": config, "request": request}
    if "num_speculative_tokens" in request and family in MTP and draw.random() < 0.6:
        # Drafts in a pipeline are not planned.
        request.pop("pipeline_parallel_size", None)
        config |= MTP[family]
        case["draft"] = {"method": "mtp"}
    return case


def _attention(draw: random.Random) -> dict[str, Any]:
    kv_heads = draw.choice((1, 2, 4, 8))
    return {"num_key_value_heads": kv_heads, "num_attention_heads": kv_heads * draw.choice((1, 2, 4))}


def _draw_nemotron_h(draw: random.Random) -> dict[str, Any]:
    layers = "".join(draw.choice("MMM*--") for _ in range(draw.randint(2, 14)))
    layers = f"{layers}M*" if draw.random() < 0.5 else f"*{layers}M"
    groups = draw.choice((1, 2, 8))
    shape = {
        "mamba_num_heads": groups * draw.choice((2, 4, 8)),
        "mamba_head_dim": draw.choice((32, 64, 80)),
        "n_groups": groups,
    }
    state = {
        "ssm_state_size": draw.choice((16, 64, 128)),
        "conv_kernel": draw.choice((2, 4)),
        "chunk_size": draw.choice((64, 128, 256)),
    }
    return nemotron_h(layers, head_dim=draw.choice((32, 64, 128)), **_attention(draw), **shape, **state)


def _draw_granite(draw: random.Random) -> dict[str, Any]:
    layers = "".join(draw.choice("MMM*") for _ in range(draw.randint(2, 12))) + "M*"
    hidden = draw.choice((256, 512))
    head_dim = draw.choice((32, 64))
    attention = {"num_attention_heads": hidden // 64, "num_key_value_heads": draw.choice((1, 2, 4))}
    mamba = {"mamba_n_heads": 2 * hidden // head_dim, "mamba_d_head": head_dim, "mamba_d_state": draw.choice((64, 128))}
    return granite(layers, hidden_size=hidden, mamba_n_groups=draw.choice((1, 1, 2)), **attention, **mamba)


def _draw_falcon_h1(draw: random.Random) -> dict[str, Any]:
    heads, head_dim = draw.choice((8, 16)), draw.choice((32, 64))
    mamba = {
        "mamba_n_heads": heads,
        "mamba_d_head": head_dim,
        "mamba_d_ssm": heads * head_dim,
        "mamba_d_state": draw.choice((64, 256)),
    }
    return falcon_h1(
        num_hidden_layers=draw.randint(2, 9), mamba_n_groups=draw.choice((1, 2)), **_attention(draw), **mamba
    )


def _draw_qwen3_next(draw: random.Random) -> dict[str, Any]:
    keys = draw.choice((8, 16))
    linear = {
        "linear_num_key_heads": keys,
        "linear_num_value_heads": keys * draw.choice((1, 2)),
        "linear_key_head_dim": draw.choice((32, 64, 128)),
    }
    return qwen3_next(draw.randint(4, 13), linear_value_head_dim=draw.choice((32, 128)), **_attention(draw), **linear)


def _draw_qwen3_5(draw: random.Random) -> dict[str, Any]:
    config = _draw_qwen3_next(draw)
    names = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    shape = {name: config[name] for name in (*names, "num_attention_heads", "num_key_value_heads")}
    state = {"mamba_ssm_dtype": draw.choice(("float32", "bfloat16"))}
    return qwen3_5(config["num_hidden_layers"], moe=draw.random() < 0.5, text=draw.random() < 0.5, **shape, **state)


def _draw_lfm2(draw: random.Random) -> dict[str, Any]:
    kinds = [draw.choice(("conv", "conv", "full_attention")) for _ in range(draw.randint(2, 12))]
    kinds = draw.choice((["conv", "full_attention", *kinds], ["full_attention", *kinds, "conv"]))
    shape = {"num_hidden_layers": len(kinds), "layer_types": kinds, "conv_L_cache": draw.choice((3, 4))}
    return draw.choice((lfm2, lfm2_moe))(num_key_value_heads=draw.choice((1, 2, 4)), **shape)


def _draw_olmo_hybrid(draw: random.Random) -> dict[str, Any]:
    every = draw.choice((2, 4))
    count = draw.randint(every, 12)
    kinds = ["linear_attention" if (index + 1) % every else "full_attention" for index in range(count)]
    state = {"linear_key_head_dim": draw.choice((32, 64)), "linear_value_head_dim": draw.choice((64, 128))}
    return olmo_hybrid(
        num_hidden_layers=count, layer_types=kinds, num_key_value_heads=draw.choice((1, 2, 4, 8)), **state
    )


def _draw_zamba2(draw: random.Random) -> dict[str, Any]:
    layers = "".join(draw.choice("MMH") for _ in range(draw.randint(1, 9))) + "H"
    return zamba2(layers, mamba_d_state=draw.choice((32, 64)), mamba_ngroups=draw.choice((1, 2)))


def _draw_jamba(draw: random.Random) -> dict[str, Any]:
    period = draw.choice((2, 3, 4))
    layout = {"attn_layer_period": period, "attn_layer_offset": draw.randrange(period)}
    heads = draw.choice((4, 8))
    attention = {"num_attention_heads": heads, "num_key_value_heads": heads // draw.choice((1, 2, 4))}
    return jamba(
        draw.randint(4, 11), mamba_d_state=draw.choice((8, 16)), mamba_d_conv=draw.choice((2, 4)), **attention, **layout
    )


def _draw_qwen3(draw: random.Random) -> dict[str, Any]:
    return qwen3(draw.randint(1, 9), head_dim=draw.choice((32, 64, 128)), **_attention(draw))


def _draw_kimi_linear(draw: random.Random) -> dict[str, Any]:
    layers = "".join(draw.choice("KKM") for _ in range(draw.randint(2, 9)))
    config = kimi_linear(draw.choice((f"{layers}KM", f"M{layers}K")), gate=draw.random() < 0.4)
    config["linear_attn_config"] |= {"head_dim": draw.choice((64, 128)), "num_heads": draw.choice((4, 8, 16))}
    return config | {"kv_lora_rank": draw.choice((256, 512)), "num_attention_heads": draw.choice((8, 16))}


def _draw_ling(draw: random.Random) -> dict[str, Any]:
    return ling(
        draw.randint(5, 12),
        version=draw.choice((2, 3)),
        layer_group_size=draw.choice((2, 4)),
        head_dim=draw.choice((64, 128)),
        num_attention_heads=draw.choice((4, 8)),
    )


def _draw_mamba(draw: random.Random) -> dict[str, Any]:
    model = draw.choice((mamba, falcon_mamba, mamba2))
    return model(
        num_hidden_layers=draw.randint(1, 7), state_size=draw.choice((16, 64)), conv_kernel=draw.choice((2, 4))
    )


def _draw_sliding_window(draw: random.Random) -> dict[str, Any]:
    window = {"sliding_window": draw.choice((128, 512, 1024))}
    if draw.random() < 0.4:
        return draw.choice((gemma3, gpt_oss))(draw.randint(6, 13), **window)
    model = draw.choice((gemma4, gemma4_shared))
    kinds = [draw.choice(("sliding_attention", "sliding_attention", "full_attention")) for _ in range(14)]
    heads = {"head_dim": draw.choice((64, 128)), "global_head_dim": draw.choice((64, 128, 256))}
    if model is gemma4_shared:
        heads["num_kv_shared_layers"] = draw.randint(0, 12)
    return model(num_hidden_layers=14, layer_types=kinds, **heads, **window)


_DRAWERS = {
    "nemotron_h": _draw_nemotron_h,
    "granite": _draw_granite,
    "falcon_h1": _draw_falcon_h1,
    "qwen3_next": _draw_qwen3_next,
    "jamba": _draw_jamba,
    "qwen3": _draw_qwen3,
    "qwen3_5": _draw_qwen3_5,
    "lfm2": _draw_lfm2,
    "olmo_hybrid": _draw_olmo_hybrid,
    "zamba2": _draw_zamba2,
    "kimi_linear": _draw_kimi_linear,
    "ling": _draw_ling,
    "mamba": _draw_mamba,
    "sliding_window": _draw_sliding_window,
}
# Families with MTP layers, and what their configs then have.
MTP = {"nemotron_h": NEMOTRON_MTP, "qwen3_next": {}, "qwen3_5": {}, "ling": {"num_nextn_predict_layers": 1}}
# Their linear attention, or the kernel that is chosen for two head sizes, is not there on a CPU.
GPU_ONLY = ("kimi_linear", "ling", "sliding_window")
FAMILIES = ("nemotron_h", "nemotron_h", *_DRAWERS)
