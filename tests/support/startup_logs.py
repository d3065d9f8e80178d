"""Public start-up logs of vLLM: what was started, and the numbers that the engine printed.

Facts were read on 2026-11-25 and 2026-11-26 from the sources that each entry names. Sizes that a log rounds are as
printed, in GiB. Logs before 0.21 do not subtract CUDA graphs from the pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# The encoder of Qwen3.5-27B's published config, which Qwen3.5 to 3.8 share except for the output width.
QWEN_VISION: dict[str, Any] = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "deepstack_visual_indexes": [],
}
QWEN_TEXT: dict[str, Any] = {
    "attn_output_gate": True,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "max_position_embeddings": 262144,
    "mamba_ssm_dtype": "float32",
    "dtype": "bfloat16",
    "vocab_size": 248320,
    "full_attention_interval": 4,
}


def qwen(moe: bool = False, **text: Any) -> dict[str, Any]:
    """A published config of Qwen3.5 to 3.8."""
    return {
        "architectures": [f"Qwen3_5{'Moe' if moe else ''}ForConditionalGeneration"],
        "tie_word_embeddings": False,
        "vision_config": QWEN_VISION | {"out_hidden_size": text["hidden_size"]},
        "text_config": QWEN_TEXT | text,
    }


QWEN_27B = qwen(
    hidden_size=5120,
    intermediate_size=17408,
    num_hidden_layers=64,
    num_attention_heads=24,
    num_key_value_heads=4,
    linear_num_value_heads=48,
)
QWEN_9B = qwen(
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=32,
    num_attention_heads=16,
    num_key_value_heads=4,
    linear_num_value_heads=32,
)
QWEN_35B_A3B = qwen(
    moe=True,
    hidden_size=2048,
    num_hidden_layers=40,
    num_attention_heads=16,
    num_key_value_heads=2,
    linear_num_value_heads=32,
    num_experts=256,
    num_experts_per_tok=8,
    moe_intermediate_size=512,
    shared_expert_intermediate_size=512,
)
QWEN_92_LAYERS = qwen(
    moe=True,
    mamba_ssm_dtype="bfloat16",
    hidden_size=8192,
    num_hidden_layers=92,
    num_attention_heads=32,
    num_key_value_heads=4,
    linear_num_value_heads=128,
    num_experts=512,
    num_experts_per_tok=10,
    moe_intermediate_size=2048,
    shared_expert_intermediate_size=2048,
)
QWEN3_NEXT_80B: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "decoder_sparse_step": 1,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
GRANITE_1B: dict[str, Any] = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 256,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 100352,
    "hidden_size": 1536,
    "num_hidden_layers": 40,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "intermediate_size": 4096,
    "shared_intermediate_size": 4096,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "max_position_embeddings": 131072,
    "layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
}
ZAMBA2: dict[str, Any] = {
    "architectures": ["Zamba2ForCausalLM"],
    "hidden_size": 2560,
    "num_hidden_layers": 54,
    "num_attention_heads": 32,
    "mamba_d_state": 64,
    "mamba_ngroups": 1,
    "mamba_expand": 2,
    "mamba_d_conv": 4,
    "n_mamba_heads": 80,
    "chunk_size": 256,
    "max_position_embeddings": 4096,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
    "layers_block_type": ["hybrid" if i in (6, 12, 18, 24, 30, 36, 42, 47, 51) else "mamba" for i in range(54)],
}
LFM2: dict[str, Any] = {
    "architectures": ["Lfm2MoeForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_dense_layers": 2,
    "vocab_size": 65536,
    "conv_L_cache": 3,
    "max_position_embeddings": 128000,
    "torch_dtype": "bfloat16",
    "layer_types": ["full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv" for i in range(24)],
}

# A draft with these five layers gives the log's integers: 653 blocks, of which a sequence takes 649.
DFLASH: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "num_hidden_layers": 5,
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "sliding_window": 2048,
    "use_sliding_window": True,
    "vocab_size": 248320,
    "torch_dtype": "bfloat16",
}


@dataclass(frozen=True)
class Printed:
    """Numbers of the log; None is not in it."""

    block: int | None = None
    padding: float | None = None
    padding_layers: int | None = None
    blocks: int | None = None
    tokens: int | None = None
    tokens_before_0_22: int | None = None
    """Before 0.22 the log line had blocks // groups * block size."""
    concurrency: float | None = None
    weights: float | None = None
    refused_seqs: tuple[int, int] | None = None
    """max_num_seqs, and the blocks that it exceeds."""


@dataclass(frozen=True)
class Device:
    """The device of a log whose memory and utilization are known, so that the pool can be estimated."""

    accelerator: str
    gib: float
    utilization: float
    graphs_subtracted: bool


@dataclass(frozen=True)
class StartupLog:
    """One log. `model` is a catalog id or a config; `request` are arguments of `CacheRequest`."""

    id: str
    model: str | dict[str, Any]
    engine: str
    printed: Printed
    source: str
    pool: float | int | None = None
    """GiB with two decimals, or bytes."""
    request: dict[str, Any] = field(default_factory=dict)
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    eager: bool = False
    device: Device | None = None
    draft: dict[str, Any] | None = None
    """Config of a DFlash draft model."""
    weights_unknown: str = ""
    """Why the logged weights are not those of the checkpoint."""


OFF = {"enable_prefix_caching": False}
FP8 = {"kv_cache_dtype": "fp8"}
LOGS = [
    StartupLog(
        "A01",
        "nemotron-3-nano-4b-fp8",
        "0.13.0",
        Printed(block=992, padding=0.35, padding_layers=3, tokens_before_0_22=208320, concurrency=98.2, weights=4.9054),
        "GB10, guardkit scripts log, public file 55241598681",
        pool=11.15,
        request=OFF | FP8 | {"mamba_ssm_cache_dtype": "float16", "max_model_len": 8192},
    ),
    StartupLog(
        "A03",
        "nemotron-3-nano-30b-a3b-nvfp4",
        "0.19.1",
        Printed(
            block=4176, padding=0.19, padding_layers=1, tokens_before_0_22=4819104, concurrency=86.16, weights=18.03
        ),
        "H100 94 GB, batch log, public file 59839511370",
        pool=68.97,
        request=OFF | FP8 | {"max_model_len": 262144},
        max_num_seqs=40,
        max_num_batched_tokens=8192,
        device=Device("h100-nvl", 93.1, 0.95, graphs_subtracted=False),
    ),
    StartupLog(
        "A04",
        "nemotron-3-nano-30b-a3b-nvfp4",
        "0.19.0",
        Printed(block=4176, padding=0.19),
        "RTX 5090, public file 51961570119",
        request=OFF | FP8 | {"max_model_len": 131072},
    ),
    StartupLog(
        "A05",
        GRANITE_1B,
        "0.19.0",
        Printed(block=400, padding=1.59, tokens_before_0_22=53200, concurrency=66.95, weights=2.72),
        "12 GB card, public file 62458215816",
        pool=4.09,
        request=OFF | {"max_model_len": 4096},
        max_num_seqs=2,
    ),
    StartupLog(
        "A07",
        "granite-4.0-h-small",
        "0.11.1rc6",
        Printed(block=528, padding=0.69, weights=78.43),
        "Strix Halo, ROCm forum dump, public file 57002958791",
        request=OFF | {"max_model_len": 131072},
        weights_unknown="ROCm pads the experts",
    ),
    StartupLog(
        "A08",
        QWEN3_NEXT_80B,
        "0.10.2",
        Printed(block=544, padding=1.49, tokens_before_0_22=973760, concurrency=14.77, weights=74.2812),
        "2 x H200, public file 7292846353",
        pool=44.59,
        request=OFF | {"tensor_parallel_size": 2, "max_model_len": 262144},
        max_num_seqs=1024,
        max_num_batched_tokens=8192,
    ),
    StartupLog(
        "A10",
        QWEN_27B,
        "0.29.0",
        Printed(block=784, padding=0.13, blocks=652, tokens=314187, concurrency=38.3529, weights=51.1),
        "RTX PRO 6000 Blackwell 96 GB, report, public file 69095715416",
        pool=31.24,
        request={"max_model_len": 8192},
        max_num_batched_tokens=8192,
        device=Device("rtx-pro-6000", 94.96, 0.9, graphs_subtracted=True),
    ),
    StartupLog(
        "A11",
        QWEN_27B,
        "0.29.0",
        Printed(block=784, refused_seqs=(1024, 635)),
        "the same report: the attempt with the default of 1024 sequences",
        request={"max_model_len": 8192, "num_gpu_blocks_override": 635},
        max_num_seqs=1024,
    ),
    StartupLog(
        "A14",
        QWEN_35B_A3B,
        "0.24.0",
        Printed(tokens=567978, concurrency=4.33),
        "RTX 5090, noonghunna/club-3090#612",
        pool=5.98,
        request=FP8 | {"max_model_len": 131072},
        max_num_seqs=1,
    ),
    StartupLog(
        "A16",
        QWEN_27B,
        "0.23.1",
        Printed(blocks=161, tokens=123399),
        "2 x RX 7900 XT, vllm-project/vllm#49064, comment of 2026-09",
        pool=3.86,
        request=OFF | {"tensor_parallel_size": 2, "max_model_len": 122633},
        max_num_seqs=161,
    ),
    StartupLog(
        "A16b",
        QWEN_27B,
        "0.23.1",
        Printed(refused_seqs=(256, 161)),
        "the same comment: the attempt with the default of 256 sequences",
        pool=3.86,
        request=OFF | {"tensor_parallel_size": 2, "max_model_len": 122633},
    ),
    StartupLog(
        "A17",
        "nemotron-3-ultra-550b-a55b",
        "0.22.0",
        Printed(block=2080, padding=0.24, tokens=1426783, concurrency=5.44, weights=137),
        "8 x B200, profile report, public file 63006066000",
        pool=8.49,
        request=OFF | {"tensor_parallel_size": 8, "max_model_len": 262144},
        max_num_seqs=512,
        max_num_batched_tokens=16384,
        weights_unknown="the log includes slots of LoRA adapters of a rank that it does not state",
    ),
    StartupLog(
        "A19",
        ZAMBA2,
        "0.12.0",
        Printed(block=48, padding=43.12, tokens_before_0_22=5088, concurrency=15.27, weights=5.0655),
        "RTX 5060 Ti 16 GB, smoke report, public file 69766907673",
        pool=6.16,
        request=OFF | {"max_model_len": 2048},
        max_num_seqs=8,
    ),
    StartupLog(
        "A20",
        QWEN_9B,
        "0.19.0",
        Printed(block=528, padding=0.76, tokens_before_0_22=165792, concurrency=2.52, weights=17.66),
        "L40S, public file 51781852921",
        pool=20.27,
        request=OFF | {"max_model_len": 262144},
        max_num_batched_tokens=8192,
        device=Device("l40s", 44.34, 0.9, graphs_subtracted=False),
    ),
    StartupLog(
        "A21",
        QWEN_92_LAYERS,
        "0.28.0",
        Printed(block=1056, padding=0.19, tokens=394633, concurrency=38.54),
        "GB300, worker log, public file 67109727157",
        pool=46.50,
        request=OFF | {"max_model_len": 10240},
        max_num_seqs=64,
    ),
    StartupLog(
        "A23",
        QWEN_27B,
        "0.29.0",
        Printed(block=480, padding=1.27),
        "RTX 3090, syv-ai/qwen38-27b-rtx3090#102, arm 1",
        request={"mamba_ssm_cache_dtype": "float16", "num_speculative_tokens": 15},
    ),
    StartupLog(
        "A25",
        QWEN_27B,
        "0.29.1.dev0",
        Printed(block=448, padding=3.23, tokens=61303, concurrency=1.01),
        "RTX 3090, public file 70778931940 (the draft's shape was fitted to the log)",
        pool=6_000_000_000,
        request={"mamba_ssm_cache_dtype": "float16", "max_model_len": 60928, "num_speculative_tokens": 7},
        max_num_seqs=1,
        draft=DFLASH,
    ),
    StartupLog(
        "A26",
        QWEN_35B_A3B,
        "0.24.0",
        Printed(blocks=95, concurrency=1.44),
        "rwlove/home-ops#13226",
        request=OFF | FP8 | {"max_model_len": 131072, "num_gpu_blocks_override": 95},
        max_num_seqs=95,
    ),
    StartupLog(
        "A26b",
        QWEN_35B_A3B,
        "0.24.0",
        Printed(refused_seqs=(256, 95)),
        "the same issue: the attempt with the default of 256 sequences",
        request=OFF | FP8 | {"max_model_len": 131072, "num_gpu_blocks_override": 95},
    ),
    StartupLog(
        "A28",
        "nemotron-3-nano-30b-a3b-nvfp4",
        "0.16.0",
        Printed(block=4176),
        "B200, issue digest, public file 57027750543: no flag for the attention cache",
        request=dict(OFF),
    ),
    StartupLog(
        "A29",
        LFM2,
        "0.20.0",
        Printed(block=16, padding=300.0),
        "LFM2 on MetaX C500, public files 60449471537 and 64285867313 (with the width and heads of LFM2-8B-A1B)",
        request=OFF | {"max_model_len": 2048},
    ),
]
