"""Engine lint: settings that stop the engine, make it slow without a word, or make it answer wrongly.

Each rule names the public issue or the measurement it rests on. What depends on the engine's version says so in its
check; numbers about the cache come from the planner.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from packaging.version import Version

from hybridserve.catalog.engines import release
from hybridserve.compliance.findings import Outcome, failed, passed, unknown
from hybridserve.compliance.rules.base import RuleBook
from hybridserve.compliance.view import CacheFacts, DeploymentView

ENGINE = RuleBook("engine")

VLLM = "https://github.com/vllm-project/vllm/issues/"
MEASURED = "measured on vLLM 0.29.0"
# A prompt shorter than this is common: a smallest cacheable prefix above it makes prefix caching idle for many.
SHORT_PROMPT = 512
# Near the very last token that fits, aligned prefill can loop without end (vllm#52520).
CONTEXT_SHARE = 0.95


@ENGINE.rule(
    "starts",
    "The engine starts with these settings",
    basis="the planner, which agrees with vLLM's own allocator to the integer for given bytes",
    remedy="`hybridserve plan` shows what fits and what to set",
)
def starts(view: DeploymentView) -> Iterator[Outcome]:
    if view.engine.refusal is not None:
        yield failed(view.engine.refusal)
    elif view.engine.cache is None:
        yield unknown("nothing was planned for this model and device")
    else:
        cache = view.engine.cache
        yield passed(f"{cache.num_blocks} blocks{'' if cache.exact else ' at the low end of the estimate'}")


@ENGINE.rule(
    "seqs-over-blocks",
    "max_num_seqs is not above the number of cache blocks",
    basis=VLLM + "49064",
    remedy="lower engine.max_num_seqs to the planner's N_steady",
)
def seqs_over_blocks(view: DeploymentView) -> Iterator[Outcome]:
    cache = _hybrid_cache(view)
    if cache is None:
        return
    told = f"max_num_seqs {cache.max_num_seqs}, blocks {cache.num_blocks}"
    if cache.max_num_seqs <= cache.num_blocks:
        yield passed(told)
    elif cache.full_cudagraphs:
        yield failed(f"{told}: the engine refuses to start")
    else:
        yield failed(f"{told}: sequences would wait and be preempted")


@ENGINE.rule(
    "block-over-budget",
    "A cache block fits into one step's token budget",
    basis="https://github.com/vllm-project/vllm-ascend/issues/16916; scheduler's cut of aligned prefill chunks",
    remedy="set engine.max_num_batched_tokens to k * block + max_num_seqs",
)
def block_over_budget(view: DeploymentView) -> Iterator[Outcome]:
    cache = _hybrid_cache(view)
    if cache is not None and cache.mode == "align":
        told = f"block {cache.block_size} tokens, max_num_batched_tokens {cache.max_num_batched_tokens}"
        yield passed(told) if cache.block_size <= cache.max_num_batched_tokens else failed(told)


@ENGINE.rule(
    "inert-prefix-cache",
    "Prefix caching can hit at all",
    basis=VLLM + "48401",
    remedy="set engine.enable_prefix_caching to false, or engine.prefix_match_unit to a divisor of the block (16)",
)
def inert_prefix_cache(view: DeploymentView) -> Iterator[Outcome]:
    cache = _hybrid_cache(view)
    if cache is not None and cache.prefix_unit is not None:
        told = f"smallest cacheable prefix {cache.prefix_unit} tokens, max_model_len {cache.max_model_len}"
        yield passed(told) if cache.prefix_unit < cache.max_model_len else failed(told)


@ENGINE.rule(
    "coarse-prefix-cache",
    "Prefix caching hits prompts of everyday length",
    basis=VLLM + "40696; " + MEASURED + ": prompts below one block never hit, with no log line",
    remedy="set engine.prefix_match_unit to 16, or turn prefix caching off for short independent prompts",
    severity="warning",
)
def coarse_prefix_cache(view: DeploymentView) -> Iterator[Outcome]:
    cache = _hybrid_cache(view)
    if cache is not None and cache.prefix_unit is not None:
        told = f"prompts below {cache.prefix_unit} tokens never hit"
        yield passed(told) if cache.prefix_unit <= SHORT_PROMPT else failed(told)


@ENGINE.rule(
    "near-ceiling",
    "max_model_len keeps clear of the longest context that fits",
    basis=VLLM + "52520",
    remedy="set engine.max_model_len to at most 0.95 of the longest context `hybridserve plan` prints",
    severity="warning",
)
def near_ceiling(view: DeploymentView) -> Iterator[Outcome]:
    cache = _hybrid_cache(view)
    if cache is not None and cache.mode == "align":
        told = f"max_model_len {cache.max_model_len}, longest that fits {cache.longest_context}"
        # A ceiling that is the model's own length and not the memory's is no danger.
        roomy = cache.max_model_len <= CONTEXT_SHARE * cache.longest_context
        full = cache.max_model_len == cache.longest_context
        yield passed(told) if roomy or (full and _fits_twice(cache)) else failed(told)


@ENGINE.rule(
    "ssm-dtype",
    "The SSM state has a type that is known to keep accuracy",
    basis=VLLM + "39032; NVIDIA's measurement on Nemotron 3 Super: fp16 round-to-nearest loses 2.3 %",
    remedy="set engine.mamba_ssm_cache_dtype to float32, or float16 with stochastic rounding",
)
def ssm_dtype(view: DeploymentView) -> Iterator[Outcome]:
    if not _hybrid(view):
        return
    dtype = view.engine.args.get("mamba_ssm_cache_dtype") or view.engine.card_ssm_dtype or "auto"
    rounding = bool(view.engine.args.get("enable_mamba_cache_stochastic_rounding"))
    if dtype == "float32":
        yield passed("float32")
    elif dtype == "float16" and rounding:
        yield passed("float16 with stochastic rounding")
    elif dtype == "auto":
        yield failed("auto: what it means has changed between vLLM releases")
    else:
        yield failed(f"{dtype} without stochastic rounding")


@ENGINE.rule(
    "stochastic-rounding",
    "Stochastic rounding runs where it is built",
    basis="vLLM checks the platform only for a config made in Python, not for flags: " + MEASURED,
    remedy="use it with a float16 SSM state on CUDA, on Blackwell or with mamba_backend flashinfer; else turn it off",
)
def stochastic_rounding(view: DeploymentView) -> Iterator[Outcome]:
    args = view.engine.args
    if not args.get("enable_mamba_cache_stochastic_rounding"):
        return
    wrong = []
    if args.get("mamba_ssm_cache_dtype") != "float16":
        wrong.append("the SSM state is not float16")
    if view.engine.platform != "cuda":
        wrong.append(f"the platform is {view.engine.platform}")
    elif not view.engine.blackwell and args.get("mamba_backend") != "flashinfer":
        wrong.append("neither a Blackwell GPU nor mamba_backend flashinfer")
    yield failed("; ".join(wrong)) if wrong else passed("float16 state on a platform that has it")


@ENGINE.rule(
    "mtp-prefix-cache",
    "No speculative decoding together with prefix caching",
    basis=VLLM + "53912",
    remedy="drop engine.speculative_config, or set engine.enable_prefix_caching to false",
)
def mtp_prefix_cache(view: DeploymentView) -> Iterator[Outcome]:
    if _hybrid(view) and (method := _speculation(view)):
        told = f"speculative decoding by {method}, prefix caching {'on' if _prefix_caching(view) else 'off'}"
        yield failed(f"{told}: corrupts output on hybrids") if _prefix_caching(view) else passed(told)


@ENGINE.rule(
    "ngram",
    "No n-gram speculation on a hybrid",
    basis=VLLM + "39273",
    remedy="drop engine.speculative_config",
)
def ngram(view: DeploymentView) -> Iterator[Outcome]:
    if _hybrid(view) and (method := _speculation(view)):
        yield failed(f"{method}: corrupts output on hybrids") if "ngram" in method else passed(f"method is {method}")


@ENGINE.rule(
    "kv-connector",
    "No external KV connector on a hybrid",
    basis="https://github.com/LMCache/LMCache/issues/4247; " + VLLM + "37285",
    remedy="drop engine.kv_transfer_config",
)
def kv_connector(view: DeploymentView) -> Iterator[Outcome]:
    if _hybrid(view):
        connector = view.engine.args.get("kv_transfer_config")
        told = "kv_transfer_config is set: a hit restores attention without the state"
        yield failed(told) if connector else passed("none")


@ENGINE.rule(
    "kv-events",
    "KV cache events are off on a hybrid",
    basis="https://github.com/ai-dynamo/dynamo/issues/9376",
    remedy="drop kv_events_config from engine.extra_args",
)
def kv_events(view: DeploymentView) -> Iterator[Outcome]:
    if _hybrid(view):
        events = view.engine.args.get("kv_events_config")
        yield failed("kv_events_config is set: it can turn the hybrid cache manager off") if events else passed("off")


@ENGINE.rule(
    "hybrid-manager",
    "The hybrid cache manager is on",
    basis=MEASURED + ": hybrids die with 'Failed to promote local KV cache specs to one unified type.'",
    remedy="drop disable_hybrid_kv_cache_manager from engine.extra_args",
)
def hybrid_manager(view: DeploymentView) -> Iterator[Outcome]:
    if _hybrid(view):
        off = view.engine.args.get("disable_hybrid_kv_cache_manager")
        yield failed("disable_hybrid_kv_cache_manager is set") if off else passed("on")


@ENGINE.rule(
    "block-size",
    "Block sizes are left to the engine",
    basis=VLLM + "53142; " + VLLM + "57266",
    remedy="leave engine.block_size and mamba_block_size empty: the engine aligns them to the state page",
)
def block_size(view: DeploymentView) -> Iterator[Outcome]:
    if _hybrid(view):
        found = [name for name in ("block_size", "mamba_block_size") if view.engine.args.get(name) is not None]
        yield failed(f"set: {', '.join(found)}") if found else passed("left to the engine")


@ENGINE.rule(
    "chunked-prefill",
    "Chunked prefill is on where the state is cached",
    basis="vLLM: mode align requires it",
    remedy="drop enable_chunked_prefill from engine.extra_args",
)
def chunked_prefill(view: DeploymentView) -> Iterator[Outcome]:
    if _hybrid(view) and _prefix_caching(view):
        off = view.engine.args.get("enable_chunked_prefill") is False
        yield failed("enable_chunked_prefill is false") if off else passed("on")


@ENGINE.rule(
    "cache-mode",
    "The state's cache mode works in this release",
    basis=VLLM + "54504; mode all was removed in vLLM 0.32",
    remedy="leave engine.mamba_cache_mode empty",
)
def cache_mode(view: DeploymentView) -> Iterator[Outcome]:
    if not _hybrid(view):
        return
    mode, cpu = view.engine.args.get("mamba_cache_mode"), view.engine.platform == "cpu"
    if mode == "all" and release(view.engine.version) >= Version("0.32"):
        yield failed(f"all: refused by vLLM {view.engine.version}")
    elif mode == "all":
        yield failed("all: one state per block, and it fails on prompts of more than one chunk on CPU")
    elif cpu and release(view.engine.version) >= Version("0.32") and _prefix_caching(view):
        yield failed(f"prefix caching on CPU crashes in prefill in vLLM {view.engine.version}")
    else:
        yield passed(str(mode or "chosen by the engine"))


@ENGINE.rule(
    "auto-dtype",
    "Types are stated, not left to auto",
    basis="what auto means follows the checkpoint's files and the release",
    remedy="set engine.dtype and engine.mamba_cache_dtype to bfloat16, and engine.kv_cache_dtype to bfloat16 or fp8",
    severity="warning",
)
def auto_dtype(view: DeploymentView) -> Iterator[Outcome]:
    names = ["dtype", "kv_cache_dtype", *(["mamba_cache_dtype"] if _hybrid(view) else [])]
    auto = [name for name in names if view.engine.args.get(name) in (None, "auto")]
    yield failed(f"auto: {', '.join(auto)}") if auto else passed("stated")


@ENGINE.rule(
    "reasoning-parser",
    "Reasoning is split from the answer",
    basis="https://github.com/NVIDIA/NemoClaw/pull/6992: without it </think> reaches agents",
    remedy="set engine.reasoning_parser to the parser of the model's card",
)
def reasoning_parser(view: DeploymentView) -> Iterator[Outcome]:
    engine = view.engine
    if not (engine.reasoning and engine.chat):
        return
    parser, card = engine.args.get("reasoning_parser"), engine.card_reasoning_parser
    if card and parser not in (None, card):
        yield failed(f"{parser}; the model's card names {card}")
    elif parser or card:
        yield passed(str(parser or card))
    else:
        yield failed("the model reasons, and no parser is set")


@ENGINE.rule(
    "tool-parser",
    "Tool calls are parsed as the model writes them",
    basis="https://github.com/NVIDIA/TensorRT-LLM/pull/13684: a wrong parser loses 2-8 % of streamed calls",
    remedy="set engine.tool_call_parser to the parser of the model's card, or leave tool calls off",
)
def tool_parser(view: DeploymentView) -> Iterator[Outcome]:
    engine = view.engine
    parser, card = engine.args.get("tool_call_parser"), engine.card_tool_call_parser
    if not engine.chat or (parser is None and card is None and not engine.args.get("enable_auto_tool_choice")):
        return
    if parser is None and card is None:
        yield failed("enable_auto_tool_choice is set without a parser")
    elif card and parser not in (None, card):
        yield failed(f"{parser}; the model's card names {card}")
    else:
        yield passed(str(parser or card))


@ENGINE.rule(
    "reasoning-config",
    "A thinking budget does not empty the answer",
    basis=VLLM + "39103",
    remedy="drop reasoning_config from engine.extra_args; with engine.reasoning_parser, budgets work without it",
)
def reasoning_config(view: DeploymentView) -> Iterator[Outcome]:
    parser = view.engine.args.get("reasoning_parser") or view.engine.card_reasoning_parser
    if view.engine.args.get("reasoning_config"):
        told = f"reasoning_config with reasoning parser {parser}"
        yield failed(f"{told}: content is null") if parser == "nemotron_v3" else passed(told)


@ENGINE.rule(
    "budget-speculation",
    "A thinking budget is enforced under speculative decoding",
    basis=VLLM + "54906",
    remedy="drop engine.speculative_config or reasoning_config",
)
def budget_speculation(view: DeploymentView) -> Iterator[Outcome]:
    if view.engine.args.get("reasoning_config"):
        method = _speculation(view)
        yield failed(f"reasoning_config with {method}: silently not enforced") if method else passed("no speculation")


@ENGINE.rule(
    "version",
    "The engine's version runs the model",
    basis="the model's card or vLLM's recipe for it",
    remedy="raise engine.version",
)
def version(view: DeploymentView) -> Iterator[Outcome]:
    least = view.engine.min_version
    if least is not None:
        told = f"vLLM {view.engine.version}, the model needs {least}"
        yield passed(told) if release(view.engine.version) >= release(least) else failed(told)


def _hybrid(view: DeploymentView) -> bool:
    # Not known counts as a hybrid: the rules warn of what breaks those.
    return view.engine.hybrid is not False


def _hybrid_cache(view: DeploymentView) -> CacheFacts | None:
    return view.engine.cache if _hybrid(view) else None


def _prefix_caching(view: DeploymentView) -> bool:
    return view.engine.args.get("enable_prefix_caching") is not False


def _speculation(view: DeploymentView) -> str:
    config: Any = view.engine.args.get("speculative_config")
    return str(config.get("method", "a draft model")) if isinstance(config, dict) and config else ""


def _fits_twice(cache: CacheFacts) -> bool:
    """Two longest requests fit: the ceiling is not the memory's."""
    return cache.num_blocks * cache.block_size >= 2 * cache.max_model_len
