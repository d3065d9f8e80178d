"""Sizes, types and speculation: settings that stop the engine, slow it down without a log line, or corrupt its output.

Each rule names the public issue or the measurement that it is based on. Numbers about the cache come from the planner.
"""

from __future__ import annotations

from hybridserve.compliance.findings import Outcome, failed, passed, require, unknown
from hybridserve.compliance.rules.base import RuleFamily
from hybridserve.compliance.rules.engine_facts import (
    MEASURED,
    VLLM,
    arg,
    caching_states,
    card_fact,
    hybrid,
    hybrid_cache,
    release_table,
    speculation,
)
from hybridserve.compliance.view import DeploymentView

ENGINE = RuleFamily("engine")

# Many prompts are shorter than this: with a larger smallest cacheable prefix they never hit the prefix cache.
SHORT_PROMPT = 512
# Methods whose drafts the lookahead block hashes of vLLM 0.33 cover.
LOOKAHEAD_METHODS = ("mtp", "eagle", "eagle3")
# Close to the last token that fits, aligned prefill can loop forever (vllm#52520).
CONTEXT_SHARE = 0.95


@ENGINE.rule(
    "starts",
    "The engine starts with these settings",
    basis="the planner, which matches vLLM's own allocator to the integer for a given number of bytes",
    remedy="`hybridserve plan` shows what fits and what to set",
)
def starts(view: DeploymentView) -> Outcome:
    cache = view.engine.cache
    if view.engine.refusal is not None:
        return failed(view.engine.refusal)
    if cache is None:
        return unknown("no plan could be computed for this model and device")
    return passed(f"{cache.num_blocks} blocks{'' if cache.pool_known else ' at the low end of the estimate'}")


@ENGINE.rule(
    "seqs-over-blocks",
    "max_num_seqs is not larger than the number of cache blocks",
    basis=VLLM + "49064",
    remedy="lower engine.max_num_seqs to the planner's N_steady; since vLLM 0.31 max_num_active_seqs limits what runs",
)
def seqs_over_blocks(view: DeploymentView) -> Outcome | None:
    cache = hybrid_cache(view)
    if cache is None:
        return None
    numbers = f"max_num_seqs {cache.max_num_seqs}, blocks {cache.num_blocks}"
    if cache.max_num_seqs <= cache.num_blocks:
        return passed(numbers)
    effect = "the engine refuses to start" if cache.full_cudagraphs else "sequences would wait and be preempted"
    return failed(f"{numbers}: {effect}")


@ENGINE.rule(
    "block-over-budget",
    "A cache block fits into the token budget of one step",
    basis="https://github.com/vllm-project/vllm-ascend/issues/16916; the scheduler splits prefill at block boundaries",
    remedy="set engine.max_num_batched_tokens to k * block + max_num_seqs",
)
def block_over_budget(view: DeploymentView) -> Outcome | None:
    cache = hybrid_cache(view)
    if cache is None or cache.mode != "align":
        return None
    numbers = f"block {cache.block_size} tokens, max_num_batched_tokens {cache.max_num_batched_tokens}"
    return require(cache.block_size <= cache.max_num_batched_tokens, numbers)


@ENGINE.rule(
    "prefix-cache-unusable",
    "The smallest cacheable prefix is shorter than max_model_len",
    basis=VLLM + "48401",
    remedy="set engine.enable_prefix_caching to false, or engine.prefix_match_unit as `hybridserve plan` names it",
)
def prefix_cache_unusable(view: DeploymentView) -> Outcome | None:
    cache = hybrid_cache(view)
    if cache is None or cache.prefix_unit is None:
        return None
    numbers = f"smallest cacheable prefix {cache.prefix_unit} tokens, max_model_len {cache.max_model_len}"
    return require(cache.prefix_unit < cache.max_model_len, numbers)


@ENGINE.rule(
    "prefix-cache-granularity",
    "The smallest cacheable prefix is at most 512 tokens",
    basis=VLLM + "40696; " + MEASURED + ": prompts shorter than one block never hit, and no log line reports it",
    remedy="decide, as for what `hybridserve plan` lists under Consider: engine.prefix_match_unit, after a comparison "
    "of answers; or no prefix caching, where most prompts are shorter; or leave it",
    severity="note",
)
def prefix_cache_granularity(view: DeploymentView) -> Outcome | None:
    cache = hybrid_cache(view)
    if cache is None or cache.prefix_unit is None:
        return None
    numbers = f"prompts shorter than {cache.prefix_unit} tokens never hit"
    advice = f"; {cache.finer_unit}" if cache.finer_unit else ""
    return require(cache.prefix_unit <= SHORT_PROMPT, numbers + advice)


@ENGINE.rule(
    "context-near-limit",
    "max_model_len leaves a margin below the longest context that fits",
    basis=VLLM + "52520",
    remedy="set engine.max_model_len to at most 0.95 of the longest context that `hybridserve plan` prints",
    severity="warning",
)
def context_near_limit(view: DeploymentView) -> Outcome | None:
    cache = hybrid_cache(view)
    if cache is None or cache.mode != "align":
        return None
    margin = cache.max_model_len <= CONTEXT_SHARE * cache.longest_context
    # A limit that is set by the model's own length and not by memory is safe: two longest requests fit.
    model_limit = (
        cache.max_model_len == cache.longest_context and cache.num_blocks * cache.block_size >= 2 * cache.max_model_len
    )
    numbers = f"max_model_len {cache.max_model_len}, longest that fits {cache.longest_context}"
    return require(margin or model_limit, numbers)


@ENGINE.rule(
    "ssm-dtype",
    "The SSM state has a data type that is known to keep accuracy",
    basis=VLLM + "39032; NVIDIA's measurement on Nemotron 3 Super: fp16 round-to-nearest loses 2.3 %",
    remedy="set engine.mamba_ssm_cache_dtype to float32, then plan again: the capacity changes",
    when=lambda view: hybrid(view) and view.engine.takes_ssm_dtype,
)
def ssm_dtype(view: DeploymentView) -> Outcome:
    dtype = arg(view, "mamba_ssm_cache_dtype") or card_fact(view, "mamba_ssm_cache_dtype") or "auto"
    if dtype == "float32":
        return passed("float32")
    if dtype == "auto":
        return failed("auto: its meaning has changed between vLLM releases")
    # Other layers have no such rounding. Source: vLLM mamba/ops/ssu_dispatch.py and its callers.
    mamba = view.engine.mixer in (None, "mamba1", "mamba2")
    if dtype == "float16" and mamba and arg(view, "enable_mamba_cache_stochastic_rounding"):
        return passed("float16 with stochastic rounding")
    remedy = None
    if mamba and _has_rounding(view):
        remedy = (
            "set engine.mamba_ssm_cache_dtype to float32, or to float16 with "
            "engine.enable_mamba_cache_stochastic_rounding, then plan again: the capacity changes"
        )
    return failed(f"{dtype} {'without' if mamba else 'and layers that have no'} stochastic rounding", remedy=remedy)


def _has_rounding(view: DeploymentView) -> bool:
    flashinfer = view.engine.platform == "cuda" and view.engine.args.get("mamba_backend") == "flashinfer"
    return view.engine.rounds_stochastically or flashinfer


@ENGINE.rule(
    "stochastic-rounding",
    "Stochastic rounding is used only where the platform supports it",
    basis="vLLM checks the platform only for a config made in Python, not for flags: " + MEASURED,
    remedy="use it with a float16 SSM state on CUDA, on a data center Blackwell GPU or with mamba_backend flashinfer; "
    "else turn it off",
    when=lambda view: bool(arg(view, "enable_mamba_cache_stochastic_rounding")),
)
def stochastic_rounding(view: DeploymentView) -> Outcome:
    args, wrong = view.engine.args, []
    if args.get("mamba_ssm_cache_dtype") != "float16":
        wrong.append("the SSM state is not float16")
    if view.engine.platform != "cuda":
        wrong.append(f"the platform is {view.engine.platform}")
    elif not _has_rounding(view):
        wrong.append("neither a data center Blackwell GPU nor mamba_backend flashinfer")
    return require(not wrong, "; ".join(wrong) or "float16 state on a platform that supports it")


@ENGINE.rule(
    "mtp-prefix-cache",
    "Speculative decoding is not combined with prefix caching without lookahead block hashes",
    basis=VLLM + "53912; vLLM 0.33 hashes ahead of the draft tokens",
    remedy="remove engine.speculative_config, set engine.enable_prefix_caching to false, or use vLLM 0.33 with MTP",
    when=hybrid,
)
def mtp_prefix_cache(view: DeploymentView) -> Outcome | None:
    method = speculation(view)
    if not method:
        return None
    if not caching_states(view):
        return passed(f"speculative decoding by {method}, prefix caching off")
    config = arg(view, "speculative_config")
    if release_table(view).lookahead_block_hashes and method.endswith(LOOKAHEAD_METHODS):
        if config.get("disable_lookahead_block_hashes"):
            return failed(
                "disable_lookahead_block_hashes is set: without them prefix caching corrupts output on hybrids"
            )
        if arg(view, "kv_transfer_config"):
            return failed(f"{method}, prefix caching and a KV connector, which turns lookahead block hashes off")
        return passed(f"speculative decoding by {method}, with lookahead block hashes")
    return failed(f"speculative decoding by {method}, prefix caching on: corrupts output on hybrids")


@ENGINE.rule(
    "ngram",
    "No n-gram speculation on a hybrid",
    basis=VLLM + "39273",
    remedy="remove engine.speculative_config",
    when=hybrid,
)
def ngram(view: DeploymentView) -> Outcome | None:
    method = speculation(view)
    if not method:
        return None
    return failed(f"{method}: corrupts output on hybrids") if "ngram" in method else passed(f"method is {method}")


@ENGINE.rule(
    "cpu-speculation",
    "Drafts do not change the tokens of a hybrid on CPU",
    basis="`make test-speculation`: greedy requests with and without drafts, by release",
    remedy="remove engine.speculative_config",
    when=hybrid,
)
def cpu_speculation(view: DeploymentView) -> Outcome | None:
    method, table = speculation(view), release_table(view)
    if not method or view.engine.platform != "cpu":
        return None
    known = table.cpu_speculation
    if known is None:
        return unknown(f"{method} on CPU was not examined with vLLM {table.version}")
    outcome = known.cached if caching_states(view) else known.uncached
    return require(outcome == "equal", f"{method} on CPU with vLLM {table.version}: {known.found}")
