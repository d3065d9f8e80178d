"""Cases for the differential suite: models of six families, settings of every kind, and every card of the catalog.

Imports neither vLLM nor torch, so that a script can run the same cases with an allocator in another environment.
"""

from __future__ import annotations

import contextlib
from dataclasses import fields
from typing import Any

from planner_models import (
    NANO_9B_LAYERS,
    NANO_12B_LAYERS,
    NANO_30B_LAYERS,
    NEMOTRON_MTP,
    dflash,
    eagle3,
    falcon_h1,
    falcon_mamba,
    gemma2,
    gemma3,
    gemma3_vision,
    gemma4,
    gemma4_saved,
    gemma4_shared,
    gemma4_vision,
    gpt_oss,
    granite,
    intern_s2,
    jamba,
    kimi_k3,
    kimi_linear,
    lfm2,
    lfm2_moe,
    lfm2_vl,
    ling,
    llama,
    mamba,
    mamba2,
    minicpm_v,
    nemotron_h,
    nemotron_nano,
    nemotron_vision,
    new_spelling,
    olmo_hybrid,
    qwen3,
    qwen3_5,
    qwen3_moe,
    qwen3_next,
    zamba2,
)

from hybridserve.catalog.models import model_ids, resolve_model
from hybridserve.errors import CatalogError
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.models import read_architecture

Case = dict[str, Any]
Answer = dict[str, Any]
GIB, MIB = 1 << 30, 1 << 20


# --- curated ----------------------------------------------------------------------------------------------------------


def curated() -> list[Case]:
    """Cases chosen by hand: published models, every setting, every refusal we know of."""
    nano, nano_12b = (
        nemotron_nano(NANO_9B_LAYERS),
        nemotron_nano(NANO_12B_LAYERS, hidden_size=5120, intermediate_size=20480),
    )
    nano_30b = nemotron_nano(
        NANO_30B_LAYERS,
        hidden_size=2688,
        num_attention_heads=32,
        num_key_value_heads=2,
        mamba_num_heads=64,
        mamba_head_dim=64,
        n_routed_experts=128,
        num_experts_per_tok=6,
        moe_intermediate_size=1856,
        n_shared_experts=1,
        moe_shared_expert_intermediate_size=3712,
        max_position_embeddings=262144,
    )
    qwen_8b = qwen3(
        36,
        hidden_size=4096,
        intermediate_size=12288,
        vocab_size=151936,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    tiny = nemotron_h()
    cpu = {"platform": "cpu", "kv_bytes": GIB}
    gpu = {"platform": "cuda", "kv_bytes": GIB}
    fp8 = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    rows: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("nano 9b", nano, gpu | {"kv_bytes": 4 * GIB}),
        ("nano 9b auto length", nano, gpu | {"max_model_len": -1}),
        ("nano 9b auto length, enough", nano, gpu | {"kv_bytes": 8 * GIB, "max_model_len": -1}),
        ("nano 9b too little", nano, gpu | {"kv_bytes": 2 * GIB}),
        ("nano 9b one block", nano, gpu | {"kv_bytes": 21495808}),
        ("nano 9b no memory", nano, gpu | {"kv_bytes": 1000}),
        ("nano 9b no memory, auto", nano, gpu | {"kv_bytes": 1000, "max_model_len": -1}),
        ("nano 9b no memory for one token, auto", nano, gpu | {"kv_bytes": 15 * 21495808, "max_model_len": -1}),
        ("nano 9b exactly one request", nano, gpu | {"kv_bytes": 115 * 21495808}),
        ("nano 9b one block short", nano, gpu | {"kv_bytes": 115 * 21495808 - 1}),
        ("nano 9b 8k", nano, gpu | {"max_model_len": 8192}),
        ("nano 9b too many sequences", nano, gpu | {"max_model_len": 8192, "max_num_seqs": 256}),
        ("nano 9b as many sequences as blocks", nano, gpu | {"max_model_len": 8192, "max_num_seqs": 49}),
        ("nano 9b one sequence more", nano, gpu | {"max_model_len": 8192, "max_num_seqs": 50}),
        ("nano 9b eager", nano, gpu | {"max_model_len": 8192, "max_num_seqs": 256, "full_cudagraphs": False}),
        ("nano 9b no prefix caching", nano, gpu | {"kv_bytes": 4 * GIB, "enable_prefix_caching": False}),
        ("nano 9b fp8 cache", nano, gpu | {"kv_bytes": 4 * GIB, "kv_cache_dtype": "fp8"}),
        ("nano 9b fp8 checkpoint", nano | fp8, gpu | {"kv_bytes": 4 * GIB}),
        (
            "nano 9b, type of the cache unlike the model's",
            nano,
            gpu | {"kv_bytes": 4 * GIB, "kv_cache_dtype": "float16"},
        ),
        ("nano 9b 16-bit state", nano, gpu | {"kv_bytes": 4 * GIB, "mamba_ssm_cache_dtype": "float16"}),
        (
            "nano 9b fp8 and 16-bit state",
            nano,
            gpu | {"kv_bytes": 4 * GIB, "kv_cache_dtype": "fp8", "mamba_ssm_cache_dtype": "bfloat16"},
        ),
        ("nano 9b fp32 conv", nano, gpu | {"kv_bytes": 4 * GIB, "mamba_cache_dtype": "float32"}),
        ("nano 9b mode all", nano, gpu | {"kv_bytes": 24 * GIB, "mamba_cache_mode": "all"}),
        ("nano 9b replayssm", nano, gpu | {"kv_bytes": 4 * GIB, "use_replayssm": True}),
        ("nano 9b replayssm, all", nano, gpu | {"kv_bytes": 4 * GIB, "use_replayssm": True, "mamba_cache_mode": "all"}),
        (
            "nano 9b replayssm, speculative",
            nano,
            gpu | {"kv_bytes": 4 * GIB, "use_replayssm": True, "num_speculative_tokens": 2},
        ),
        ("nano 9b block 2048", nano, gpu | {"kv_bytes": 4 * GIB, "block_size": 2048}),
        ("nano 9b block 64", nano, gpu | {"kv_bytes": 4 * GIB, "block_size": 64}),
        ("nano 9b match unit 16", nano, gpu | {"kv_bytes": 4 * GIB, "prefix_match_unit": 16}),
        ("nano 9b match unit 48", nano, gpu | {"kv_bytes": 4 * GIB, "prefix_match_unit": 48}),
        (
            "nano 9b fp8, match unit 32",
            nano,
            gpu | {"kv_bytes": 4 * GIB, "kv_cache_dtype": "fp8", "prefix_match_unit": 32},
        ),
        *(
            (f"nano 9b tp {tp}", nano, gpu | {"kv_bytes": 4 * GIB, "tensor_parallel_size": tp})
            for tp in (2, 3, 4, 5, 8, 16)
        ),
        *((f"nano 9b pp {pp}", nano, gpu | {"kv_bytes": 4 * GIB, "pipeline_parallel_size": pp}) for pp in (2, 3, 4, 7)),
        ("nano 9b beyond its context", nano, gpu | {"kv_bytes": 8 * GIB, "max_model_len": 131073}),
        ("nano 9b on cpu", nano, cpu | {"kv_bytes": 4 * GIB}),
        ("nano 9b block override", nano, gpu | {"num_gpu_blocks_override": 300}),
        ("nano 12b", nano_12b, gpu | {"kv_bytes": 8 * GIB}),
        ("nano 12b 8k", nano_12b, gpu | {"kv_bytes": 2 * GIB, "max_model_len": 8192}),
        ("nano 30b", nano_30b, gpu | {"kv_bytes": 8 * GIB}),
        ("nano 30b new spelling", new_spelling(nano_30b), gpu | {"kv_bytes": 8 * GIB}),
        ("qwen3 8b", qwen_8b, gpu | {"kv_bytes": 8 * GIB, "max_model_len": 32768}),
        ("nano 9b, uneven query groups", nano | {"num_key_value_heads": 7}, gpu | {"max_model_len": 8192}),
        ("qwen3 8b, uneven query groups", qwen_8b | {"num_attention_heads": 28}, gpu | {"max_model_len": 8192}),
        ("qwen3 8b tp 4", qwen_8b, gpu | {"kv_bytes": 8 * GIB, "tensor_parallel_size": 4}),
        (
            "qwen3 8b pp 2, more sequences than blocks",
            qwen_8b,
            gpu | {"kv_bytes": 8 * GIB, "pipeline_parallel_size": 2, "max_num_seqs": 99999},
        ),
        ("qwen3 8b match unit", qwen_8b, gpu | {"kv_bytes": 8 * GIB, "prefix_match_unit": 8}),
        (
            "qwen3 8b match unit, no prefix caching",
            qwen_8b,
            gpu | {"kv_bytes": 8 * GIB, "prefix_match_unit": 8, "enable_prefix_caching": False},
        ),
        ("qwen3 8b per-token-head fp8", qwen_8b, gpu | {"kv_bytes": 8 * GIB, "kv_cache_dtype": "fp8_per_token_head"}),
        ("nano 9b per-token-head int8", nano, gpu | {"kv_bytes": 4 * GIB, "kv_cache_dtype": "int8_per_token_head"}),
        ("tiny", tiny, cpu | {"max_model_len": 1024}),
        ("tiny new spelling", new_spelling(tiny), cpu | {"max_model_len": 1024}),
        ("tiny mode none", tiny, cpu | {"max_model_len": 1024, "enable_prefix_caching": False}),
        (
            "tiny mode all without prefix caching",
            tiny,
            cpu | {"enable_prefix_caching": False, "mamba_cache_mode": "all"},
        ),
        ("tiny mode all", tiny, cpu | {"mamba_cache_mode": "all"}),
        ("tiny mode all, mamba block 512", tiny, cpu | {"mamba_cache_mode": "all", "mamba_block_size": 512}),
        (
            "tiny mamba block without prefix caching",
            tiny,
            cpu | {"mamba_block_size": 512, "enable_prefix_caching": False},
        ),
        (
            "tiny mamba block of the whole length",
            tiny,
            cpu | {"mamba_block_size": 4096, "enable_prefix_caching": False},
        ),
        ("tiny mamba block in align", tiny, cpu | {"mamba_block_size": 512}),
        ("tiny, no chunked prefill", tiny, cpu | {"enable_chunked_prefill": False}),
        (
            "tiny mode none, no chunked prefill",
            tiny,
            cpu | {"enable_chunked_prefill": False, "enable_prefix_caching": False},
        ),
        ("tiny mode all, no chunked prefill", tiny, cpu | {"enable_chunked_prefill": False, "mamba_cache_mode": "all"}),
        ("4M/2*", nemotron_h("MMM**-M"), cpu | {"max_model_len": 1024}),
        ("4M/5*", nemotron_h("M*M*M*M**"), cpu | {"max_model_len": 1024}),
        ("7M/3*", nemotron_h("MM*MM*MM*M"), cpu | {"max_model_len": 1024}),
        ("7M/3* pp 2 on cuda", nemotron_h("MM*MM*MM*M"), gpu | {"pipeline_parallel_size": 2}),
        ("attention first", nemotron_h("*-MMM*"), cpu),
        ("stage without cache", nemotron_h("M*----"), gpu | {"pipeline_parallel_size": 2}),
        ("more stages than layers", nemotron_h("M*M*"), gpu | {"pipeline_parallel_size": 5}),
        ("tiny fp8 cache", tiny, cpu | {"kv_cache_dtype": "fp8", "max_model_len": 1024}),
        ("tiny 4 kv heads of 128", nemotron_h(num_key_value_heads=4, head_dim=128), cpu | {"max_model_len": 2048}),
        ("tiny fp32", tiny, cpu | {"dtype": "float32"}),
        ("tiny fp32 checkpoint", tiny | {"torch_dtype": "float32"}, cpu),
        ("tiny fp16", tiny, cpu | {"dtype": "float16"}),
        ("tiny speculative", tiny, cpu | {"num_speculative_tokens": 3, "max_model_len": 1024}),
        ("tiny auto length", tiny, cpu | {"kv_bytes": 16 * MIB, "max_model_len": -1}),
        (
            "tiny auto length in none",
            tiny,
            cpu | {"kv_bytes": 16 * MIB, "max_model_len": -1, "enable_prefix_caching": False},
        ),
        ("tiny state wish of the checkpoint", tiny | {"mamba_ssm_cache_dtype": "float16"}, cpu),
        ("tiny, avx512, 16-bit state", tiny, cpu | {"avx512_bf16": True, "mamba_ssm_cache_dtype": "bfloat16"}),
        ("tiny cuda, 16-bit state", tiny, gpu | {"mamba_ssm_cache_dtype": "bfloat16"}),
        ("granite", granite(), cpu),
        ("granite, avx512", granite(), cpu | {"avx512_bf16": True}),
        ("granite, avx512, asked", granite(), cpu | {"avx512_bf16": True, "mamba_ssm_cache_dtype": "float16"}),
        ("granite tp 4, one group", granite(), gpu | {"tensor_parallel_size": 4}),
        ("granite speculative", granite(), gpu | {"num_speculative_tokens": 2}),
        ("granite, state outgrows its page", granite(mamba_d_state=60), gpu | {"num_speculative_tokens": 5}),
        (
            "granite, state outgrows a page it fitted exactly",
            granite(mamba_d_state=256, mamba_d_conv=5),
            gpu | {"num_speculative_tokens": 1},
        ),
        (
            "falcon h1 0.5b, the same with a published model",
            resolve_model("falcon-h1-0.5b-instruct").config,
            gpu | {"kv_cache_dtype": "fp8", "tensor_parallel_size": 2, "num_speculative_tokens": 3},
        ),
        ("falcon h1 speculative", falcon_h1(), gpu | {"num_speculative_tokens": 5}),
        ("granite without mamba", granite("****"), gpu),
        ("granite mode all", granite(), gpu | {"mamba_cache_mode": "all"}),
        ("falcon h1", falcon_h1(), cpu),
        ("falcon h1, avx512, asked", falcon_h1(), cpu | {"avx512_bf16": True, "mamba_ssm_cache_dtype": "float16"}),
        ("falcon h1 pp 2", falcon_h1(), gpu | {"pipeline_parallel_size": 2}),
        ("falcon h1 mode all", falcon_h1(), gpu | {"mamba_cache_mode": "all"}),
        ("qwen3 next", qwen3_next(), cpu),
        ("qwen3 next, avx512", qwen3_next(), cpu | {"avx512_bf16": True}),
        ("qwen3 next without experts", qwen3_next(num_experts=0), gpu),
        ("qwen3 next tp 2", qwen3_next(), gpu | {"tensor_parallel_size": 2}),
        ("qwen3 next mode all", qwen3_next(), gpu | {"mamba_cache_mode": "all"}),
        ("qwen3 next speculative", qwen3_next(), gpu | {"num_speculative_tokens": 3}),
        ("intern-s2", intern_s2(), gpu),
        ("jamba", jamba(), cpu),
        ("jamba tp 2", jamba(), gpu | {"tensor_parallel_size": 2}),
        ("jamba mode all", jamba(), gpu | {"mamba_cache_mode": "all"}),
        ("jamba speculative", jamba(), gpu | {"num_speculative_tokens": 3}),
        ("qwen3", qwen3(), cpu | {"max_model_len": 4096}),
        ("qwen3 mode asked", qwen3(), gpu | {"mamba_cache_mode": "align"}),
        ("qwen3 replayssm", qwen3(), gpu | {"use_replayssm": True}),
        (
            "qwen3 yarn",
            qwen3(rope_scaling={"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8192}),
            gpu,
        ),
        ("qwen3 moe tp 2", qwen3_moe(), gpu | {"tensor_parallel_size": 2}),
        ("qwen3 moe tp above experts", qwen3_moe(num_experts=2), gpu | {"tensor_parallel_size": 4}),
        ("llama", llama(), gpu),
        (
            "llama linear rope",
            llama(max_position_embeddings=4096, rope_scaling={"rope_type": "linear", "factor": 4.0}),
            gpu,
        ),
        ("lfm2 moe, stage of dense layers", lfm2_moe(), gpu | {"pipeline_parallel_size": 3}),
        ("granite replayssm", granite(), gpu | {"use_replayssm": True}),
        ("gemma 3 in float16", gemma3(), gpu | {"dtype": "float16"}),
        ("gemma 2 of a float16 checkpoint", gemma2(torch_dtype="float16"), gpu),
        ("gpt-oss, fewer key heads than ranks", gpt_oss(), gpu | {"tensor_parallel_size": 4}),
        ("gemma 4, no window layer with a cache", gemma4_shared(14), gpu),
        ("gemma 4, no full layer with a cache", gemma4_shared(9), gpu),
        ("gemma 4, shared on one stage", gemma4_shared(2), gpu | {"pipeline_parallel_size": 2}),
        ("gemma 4, one window for both directions", gemma4(use_bidirectional_attention="all"), gpu),
    ]
    rows += [
        (f"{family}, {setting}", config, {**gpu, **request})
        for family, config in FAMILIES.items()
        for setting, request in FAMILY_REQUESTS.items()
    ]
    cases = [{"name": name, "config": config, "request": request} for name, config, request in rows]
    return cases + _draft_cases()


def _draft_cases() -> list[Case]:
    """Speculative decoding whose drafts have layers with a cache: MTP, EAGLE and DFlash."""
    gpu = {"platform": "cuda", "kv_bytes": GIB, "num_speculative_tokens": 2}
    drafts = {"eagle3": eagle3(), "dflash": dflash(), "dflash, window": dflash(window=256)}
    rows = [
        (f"{family}, mtp, {setting}", config, {"method": "mtp"}, gpu | request)
        for family, config in MTP_FAMILIES.items()
        for setting, request in MTP_REQUESTS.items()
    ]
    rows += [
        (f"{family}, {name}", config, {"method": name.partition(",")[0], "config": draft}, gpu)
        for family, config in (("qwen3.5", qwen3_5()), ("tiny", nemotron_h()), ("llama", llama()))
        for name, draft in drafts.items()
    ]
    return [
        {"name": name, "config": config, "draft": draft, "request": request} for name, config, draft, request in rows
    ]


FAMILIES = {
    "nemotron vl": nemotron_vision(),
    "nemotron omni": nemotron_vision("NemotronH_Omni_Reasoning_V3", mamba_ssm_cache_dtype="float32"),
    "qwen3.5": qwen3_5(),
    "qwen3.5 text": qwen3_5(text=True),
    "qwen3.5 16-bit state": qwen3_5(mamba_ssm_dtype="bfloat16"),
    "qwen3.5 moe": qwen3_5(moe=True),
    "qwen3.5 moe text": qwen3_5(moe=True, text=True),
    "lfm2": lfm2(),
    "lfm2 moe": lfm2_moe(),
    "lfm2 vl": lfm2_vl(),
    "lfm2 vl moe": lfm2_vl(lfm2_moe()),
    "minicpm-v 4.6": minicpm_v(),
    "olmo hybrid": olmo_hybrid(),
    "zamba2": zamba2(),
    "kimi linear": kimi_linear(),
    "kimi k3": kimi_k3(),
    "ling 3": ling(),
    "ling 2.5": ling(version=2),
    "mamba": mamba(),
    "falcon mamba": falcon_mamba(),
    "mamba 2": mamba2(),
    "gpt-oss": gpt_oss(),
    "gpt-oss, odd": gpt_oss(7),
    "gemma 2": gemma2(),
    "gemma 4": gemma4(),
    "gemma 4 saved": gemma4_saved(),
    "gemma 4 shared": gemma4_shared(
        layer_types=(["sliding_attention"] * 2 + ["full_attention"]) * 4 + 2 * ["full_attention"]
    ),
    "gemma 4 vision": gemma4_vision(),
    "gemma 4 unified": gemma4_vision(unified=True),
    "gemma 4 padded": gemma4(num_key_value_heads=8, head_dim=96, global_head_dim=256),
    "gemma 3": gemma3(),
    "gemma 3 vision": gemma3_vision(6),
}
MTP_FAMILIES = {
    "nemotron": nemotron_h("MEM*EM*", **NEMOTRON_MTP),
    "qwen3 next": qwen3_next(13),
    "qwen3.5": qwen3_5(),
    "qwen3.5 moe": qwen3_5(moe=True),
    "intern-s2": intern_s2(),
    "ling 3": ling(num_nextn_predict_layers=1),
    "ling 2.5": ling(version=2, num_nextn_predict_layers=2),
    "kimi k3": kimi_k3(num_nextn_predict_layers=1),
    "nemotron omni": nemotron_vision("NemotronH_Super_Omni_Reasoning_V3", layers="MEM*EM*", **NEMOTRON_MTP),
    # Classes and checkpoints without MTP layers.
    "nemotron vl": nemotron_vision(layers="MEM*EM*", **NEMOTRON_MTP),
    "nemotron nano omni": nemotron_vision("NemotronH_Nano_Omni_Reasoning_V3", layers="MEM*EM*", **NEMOTRON_MTP),
    "tiny": nemotron_h(),
    "granite": granite(),
}
MTP_REQUESTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "three tokens, fp8 cache, two hoppers": {
        "num_speculative_tokens": 3,
        "kv_cache_dtype": "fp8",
        "tensor_parallel_size": 2,
        "compute_capability": "9.0",
    },
}
FAMILY_REQUESTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "cpu": {"platform": "cpu"},
    "cpu avx512": {"platform": "cpu", "avx512_bf16": True},
    "no prefix caching": {"enable_prefix_caching": False},
    "tp 2": {"tensor_parallel_size": 2},
    "tp 3": {"tensor_parallel_size": 3},
    "tp 2 pp 2": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    "speculative": {"num_speculative_tokens": 3},
    "fp8 cache": {"kv_cache_dtype": "fp8"},
    "mode all": {"mamba_cache_mode": "all"},
    "auto length": {"max_model_len": -1, "kv_bytes": 16 * MIB},
    "fp16 state": {"mamba_ssm_cache_dtype": "float16"},
    "fp32 conv": {"mamba_cache_dtype": "float32"},
    "block 64": {"block_size": 64},
    "match unit": {"prefix_match_unit": 16},
    "replayssm": {"use_replayssm": True},
    "too many sequences": {"max_num_seqs": 1_000_000},
    "batched tokens": {"max_num_batched_tokens": 512},
    "hopper": {"compute_capability": "9.0"},
    "blackwell": {"compute_capability": "10.3"},
    "ada": {"compute_capability": "8.9", "block_size": 48},
}


def card_cases() -> list[Case]:
    """One case a model card, with its whole context: the facts of the catalog are configs that vLLM takes.

    Quantized weights are left out; the cache type that they ask for is given.
    """
    cases = []
    for name in model_ids():
        with contextlib.suppress(CatalogError):
            config = resolve_model(name).config
            request = {"platform": "cuda", "kv_bytes": 4096 * GIB}
            if "quantization_config" in {**config, **config.get("text_config", {})}:
                request["kv_cache_dtype"] = read_architecture(config).kv_cache_dtype or "auto"
                config = _for_cpu(config)
            cases.append({"name": f"card {name}", "config": config, "request": request})
    return cases


def _for_cpu(config: dict[str, Any]) -> dict[str, Any]:
    """Without what the CPU build has no kernels for: quantization, and the activation of Kimi K3's experts."""
    kept = {name: value for name, value in config.items() if name != "quantization_config"}
    if kept.get("hidden_act") == "situ":
        kept["hidden_act"] = "silu"
    return kept | ({"text_config": _for_cpu(config["text_config"])} if "text_config" in config else {})


def request_fields() -> set[str]:
    """Fields of a request that the cases may set: all but the engine's version."""
    return {field.name for field in fields(CacheRequest)} - {"engine"}
