"""Engine settings: those that stop the engine, slow it down without a log line, or corrupt its output.

Each rule names the public issue or the measurement that it is based on. Numbers about the cache come from the planner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from hybridserve.catalog.engines import release
from hybridserve.compliance.evidence import subject
from hybridserve.compliance.findings import Outcome, failed, passed, require, unknown
from hybridserve.compliance.rules.base import RuleFamily, record_outcomes
from hybridserve.compliance.rules.engine_facts import (
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

MEASURED = "measured on vLLM 0.29.0"
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


def _forbidden_argument(name: str, title: str, argument: str, effect: str, *, basis: str, setting: str) -> None:
    @ENGINE.rule(name, title, basis=basis, remedy=f"remove {setting}", when=hybrid)
    def check(view: DeploymentView) -> Outcome:
        return failed(f"{argument} is set: {effect}") if arg(view, argument) else passed(f"{argument} is not set")


@ENGINE.rule(
    "kv-connector",
    "An external KV connector transfers the state too",
    basis="https://github.com/LMCache/LMCache/issues/4247; " + VLLM + "37285; connectors with SupportsHMA by release",
    remedy="remove engine.kv_transfer_config, or use a connector that supports the hybrid cache manager",
    when=hybrid,
)
def kv_connector(view: DeploymentView) -> Outcome:
    names = _connectors(arg(view, "kv_transfer_config"))
    if not names:
        return passed("kv_transfer_config is not set")
    table = release_table(view)
    if unfit := sorted(set(names) - table.hybrid_kv_connectors):
        return failed(f"{', '.join(unfit)}: a hit restores the attention cache without the state")
    if any(name.startswith("Nixl") for name in names) and arg(view, "async_scheduling") is not False:
        return failed(f"{', '.join(names)} with async_scheduling: corrupts output on hybrids; set it to false")
    return passed(f"{', '.join(names)}: supports the hybrid cache manager in vLLM {table.version}")


_forbidden_argument(
    "kv-events",
    "KV cache events are off on a hybrid",
    "kv_events_config",
    "it can turn the hybrid cache manager off",
    basis="https://github.com/ai-dynamo/dynamo/issues/9376",
    setting="kv_events_config from engine.extra_args",
)
_forbidden_argument(
    "hybrid-manager",
    "The hybrid cache manager is on",
    "disable_hybrid_kv_cache_manager",
    "the engine does not start",
    basis=MEASURED + ": hybrids fail with 'Failed to promote local KV cache specs to one unified type.'",
    setting="disable_hybrid_kv_cache_manager from engine.extra_args",
)


@ENGINE.rule(
    "block-size",
    "Block sizes are chosen by the engine",
    basis=VLLM + "53142; " + VLLM + "57266; on CPU " + MEASURED + " and 0.31.0",
    remedy="leave engine.block_size and mamba_block_size empty; on CPU use the block_size that the plan has",
    when=hybrid,
)
def block_size(view: DeploymentView) -> Outcome:
    found = [name for name in ("block_size", "mamba_block_size") if arg(view, name) is not None]
    cache, table = view.engine.cache, release_table(view)
    if view.engine.platform == "cpu" and table.cpu_resets_block_size and cache is not None and cache.mode == "align":
        aligned = arg(view, "block_size") == cache.block_size and found == ["block_size"]
        why = f"vLLM {table.version} on CPU forgets it otherwise, and prompts hit from the third time on"
        return require(aligned, f"block_size has to be {cache.block_size}: {why}")
    return require(not found, f"set: {', '.join(found)}" if found else "not set")


@ENGINE.rule(
    "chunked-prefill",
    "Chunked prefill is on where states are cached",
    basis="vLLM: mode align requires it",
    remedy="remove enable_chunked_prefill from engine.extra_args",
    when=caching_states,
)
def chunked_prefill(view: DeploymentView) -> Outcome:
    off = arg(view, "enable_chunked_prefill") is False
    return failed("enable_chunked_prefill is false") if off else passed("on")


@ENGINE.rule(
    "cache-mode",
    "The state cache mode works in this release",
    basis=VLLM + "54504; mode all was removed in vLLM 0.32",
    remedy="leave engine.mamba_cache_mode empty",
    when=hybrid,
)
def cache_mode(view: DeploymentView) -> Outcome:
    mode, table = arg(view, "mamba_cache_mode"), release_table(view)
    if mode and table.mamba_cache_mode_ignored:
        return passed(f"vLLM {table.version} takes it from enable_prefix_caching")
    if mode == "all" and mode not in table.mamba_cache_modes:
        return failed(f"all: refused by vLLM {table.version}")
    if mode == "all":
        return failed("all: one state per block, and on CPU it fails for prompts of more than one chunk")
    engine = view.engine
    for fault in table.known_faults if caching_states(view) else ():
        here = engine.platform in fault.platforms and engine.mixer in (None, *fault.mixers)
        if here and (mode or "align") in fault.modes:
            return failed(f"prefix caching on {engine.platform} with vLLM {table.version}: {fault.what}")
    return passed(str(mode or "chosen by the engine"))


@ENGINE.rule(
    "ignored-argument",
    "No argument is set that this release ignores",
    basis="the release's own deprecation notes, read by `make engine`",
    remedy="remove the argument; the evidence names what replaces it",
    severity="warning",
)
def ignored_argument(view: DeploymentView) -> Outcome:
    table = release_table(view)
    found = [f"{name}: {why}" for name, why in table.ignored_arguments.items() if arg(view, name) not in (None, False)]
    return require(not found, "; ".join(found) or "none")


@ENGINE.rule(
    "removed-argument",
    "No argument is set that this release does not have",
    basis="flags and methods of two releases, compared by `make engine`",
    remedy="remove the argument, or set engine.version to an earlier release",
)
def removed_argument(view: DeploymentView) -> Outcome:
    table, method = release_table(view), speculation(view)
    found = [f"{name}: {why}" for name, why in table.removed_arguments.items() if arg(view, name) not in (None, False)]
    found += [f"{method}: {why}" for name, why in table.removed_speculation.items() if name == method]
    return require(not found, "; ".join(found) or "none")


@ENGINE.rule(
    "ray-version",
    "Ray Serve LLM works with this release",
    basis="imports of ray.llm, checked by `make engine`; https://github.com/ray-project/ray/issues/62985",
    remedy="set engine.version to a release that the table in docs/reference/engines.md lists for this Ray",
    when=lambda view: view.settings.server.data_path != "single",  # which runs without Ray
)
def ray_version(view: DeploymentView) -> Outcome:
    table = release_table(view)
    working = [entry for entry in table.ray if entry.works]
    if not working:
        return failed(f"vLLM {table.version}: no Ray release imports it")
    broken = [name for entry in working for name in entry.broken]
    return passed(f"Ray {working[-1].version}" + (f"; not working: {', '.join(broken)}" if broken else ""))


@ENGINE.rule(
    "auto-dtype",
    "Data types are set explicitly, not auto",
    basis="the meaning of auto depends on the checkpoint's files and on the release",
    remedy="set engine.dtype and engine.mamba_cache_dtype to bfloat16, and engine.kv_cache_dtype to bfloat16 or fp8",
    severity="warning",
)
def auto_dtype(view: DeploymentView) -> Outcome:
    names = ["dtype", "kv_cache_dtype", *(["mamba_cache_dtype"] if hybrid(view) else [])]
    auto = [name for name in names if arg(view, name) in (None, "auto")]
    return require(not auto, f"auto: {', '.join(auto)}" if auto else "all set")


@ENGINE.rule(
    "version",
    "The engine's version supports the model",
    basis="the model's card or vLLM's recipe for it",
    remedy="raise engine.version",
)
def version(view: DeploymentView) -> Outcome | None:
    needed, present = card_fact(view, "min_vllm"), view.settings.engine.version
    if needed is None:
        return None
    return require(release(present) >= release(needed), f"vLLM {present}, the model needs {needed}")


@ENGINE.rule(
    "online-quantization",
    "Weights that the engine converts while it loads were compared with the checkpoint's",
    basis="policy: nobody measured this copy of the weights; a published checkpoint has its maker's figures",
    remedy="serve a checkpoint that is published quantized; or check the engine with hybridserve verify URL "
    "--reference FILE, a reference of the unconverted weights, and set verify.evidence_file",
)
def online_quantization(view: DeploymentView) -> Outcome | None:
    method, record = view.engine.converts, view.verification
    if method is None:
        return None
    compared = record is not None and record.get("reference_sha256")
    return require(bool(compared), f"{method}: {'compared' if compared else 'no record of a comparison'}")


@ENGINE.dated_rule(
    "verified",
    "The record of the numeric check is about this deployment, recent, and without a failure",
    basis="policy: wrong states answer fluently; a check is valid only for the model and settings it was made with",
    remedy="check it again with hybridserve verify URL --reference FILE --evidence FILE",
)
def verified(view: DeploymentView, today: date) -> Iterator[Outcome]:
    record = view.verification
    if record is None:
        return
    yield from record_outcomes(record, subject(view.settings), view.settings.verify.evidence_max_age_days, today)
    wrong = [row["condition"] for row in record.get("conditions") or () if row["verdict"] == "FAIL"]
    right = record.get("verdict") == "PASS" and not wrong
    skipped = [row["condition"] for row in record.get("conditions") or () if row["verdict"] == "SKIP"]
    passing = f"every checked condition passed{'; not checked: ' if skipped else ''}{', '.join(skipped)}"
    yield require(right, passing if right else f"failed: {', '.join(wrong) or 'not checked'}", "result")
    compared = record.get("reference_sha256")
    yield require(bool(compared), f"reference {compared}" if compared else "compared with itself only", "reference")


def _connectors(config: Any) -> list[str]:
    """Names of the connectors that a kv_transfer_config uses, those inside a MultiConnector included."""
    if not isinstance(config, Mapping) or not config:
        return []
    extra = config.get("kv_connector_extra_config")
    inner = extra.get("connectors") if isinstance(extra, Mapping) else None
    parts = inner if isinstance(inner, list) else []
    return [str(config.get("kv_connector")), *(name for part in parts for name in _connectors(part))]
