"""Engine arguments and versions that break a hybrid cache, that have no effect, or that nobody has tested.

Each rule names the public issue or the measurement that it is based on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from hybridserve.catalog.engines import release
from hybridserve.compliance.evidence import subject
from hybridserve.compliance.findings import Outcome, failed, passed, require
from hybridserve.compliance.rules.base import RuleFamily, record_outcomes
from hybridserve.compliance.rules.engine_facts import (
    MEASURED,
    VLLM,
    arg,
    caching_states,
    card_fact,
    hybrid,
    release_table,
    speculation,
)
from hybridserve.compliance.view import DeploymentView

ENGINE_ARGUMENTS = RuleFamily("engine")


def _forbidden_argument(name: str, title: str, argument: str, effect: str, *, basis: str, setting: str) -> None:
    @ENGINE_ARGUMENTS.rule(name, title, basis=basis, remedy=f"remove {setting}", when=hybrid)
    def check(view: DeploymentView) -> Outcome:
        return failed(f"{argument} is set: {effect}") if arg(view, argument) else passed(f"{argument} is not set")


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
    "chunked-prefill",
    "Chunked prefill is on where states are cached",
    basis="vLLM: mode align requires it",
    remedy="remove enable_chunked_prefill from engine.extra_args",
    when=caching_states,
)
def chunked_prefill(view: DeploymentView) -> Outcome:
    off = arg(view, "enable_chunked_prefill") is False
    return failed("enable_chunked_prefill is false") if off else passed("on")


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.rule(
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


@ENGINE_ARGUMENTS.dated_rule(
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
