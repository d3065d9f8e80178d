"""The planner's answers to cases of the differential suite, and where vLLM's differ. Imports neither vLLM nor torch."""

from __future__ import annotations

from typing import Any

from planner_cases import Case

from hybridserve.errors import HybridServeError
from hybridserve.planning.cache.layout import plan_cache
from hybridserve.planning.cache.types import CacheRequest
from hybridserve.planning.drafts import with_mtp
from hybridserve.planning.models import Architecture, read_architecture
from hybridserve.planning.models.draft import read_draft, with_draft
from hybridserve.planning.models.fields import Fields

Answer = dict[str, Any]


def predict(case: Case, engine: str) -> Answer:
    """The planner's answer in the words of `vllm_allocator.allocate`."""
    try:
        arch = read_architecture(case["config"])
        if draft := case.get("draft"):
            arch = _with_drafts(arch, draft, case["request"]["num_speculative_tokens"])
        caching = {"enable_prefix_caching": arch.attention is not None}
        plan = plan_cache(arch, CacheRequest(engine=engine, **caching | case["request"]))
    except HybridServeError as error:
        return {"refused": str(error)}
    layout = plan.layout
    return {
        "mode": layout.mode if arch.hybrid else None,
        "block_size": layout.block_size,
        "page_bytes": layout.page_bytes,
        "state_bytes": layout.state_bytes,
        "groups": [[group.kind, group.layers, group.block_tokens] for group in layout.groups],
        "num_blocks": plan.num_blocks,
        "tokens": plan.tokens,
        "concurrency": plan.concurrency,
        "max_model_len": plan.max_model_len,
    }


def _with_drafts(arch: Architecture, draft: dict[str, Any], tokens: int) -> Architecture:
    """The model with the layers of its drafts."""
    if draft["method"] == "mtp":
        return with_mtp(arch, tokens)
    return with_draft(arch, read_draft(Fields(draft["config"]), draft["method"], arch), "draft")


def differences(case: Case, predicted: Answer, actual: Answer) -> list[str]:
    """Fields on which the planner and vLLM disagree, each as one line; empty when they agree or both refuse."""
    if "refused" in predicted and "refused" in actual:
        return []
    differing = {"refused"} if "refused" in predicted or "refused" in actual else predicted.keys() | actual.keys()
    return [
        f"{case['name']}: {key}: planner {predicted.get(key)!r}, vLLM {actual.get(key)!r} ({case['request']})"
        for key in sorted(differing)
        if predicted.get(key) != actual.get(key)
    ]


# What each refusal is about, by words that the planner's and vLLM's reasons share.
REFUSALS = {
    "num_kv_heads": "query groups",
    "n_predict": "drafts",
    "Unsupported speculative method": "drafts",
    "prefix_match_unit": "match unit",
    "ensor parallel": "tensor parallel",
    "world size": "tensor parallel",
    "divisible by": "tensor parallel",
    "auto-fit": "auto-fit",
    "is incompatible with dtype": "cache type",
    "must be a positive integer": "auto-fit",
    "No available memory": "no memory",
    "max seq len": "too little memory",
    "exceeds available Mamba cache blocks": "too many sequences",
    "greater than the derived": "beyond the model",
    "Chunked prefill": "chunked prefill",
    "mamba-block-size": "mamba block size",
    "no mamba cache mode": "cache mode",
    "Input should be 'align' or 'none'": "cache mode",
    "replayssm": "replayssm",
    "ReplaySSM": "replayssm",
    "RecoverSSM": "replayssm",
    "KV cache layouts": "stages",
    "KV sharing target": "stages",
    "does not support float16": "type",
    "KV heads can be": "tensor parallel",
    "integer modulo by zero": "tensor parallel",
    "is not in list": "shared caches",
    "has a cache of its own": "shared caches",
    "layer found in the model.layers": "stages",
    "Pipeline parallelism is not supported": "stages",
    # vLLM 0.29 stops at an assertion without words where a stage has nothing to cache or a state outgrows its page.
    "has no attention or Mamba layer": "assertion",
    "more than the page": "assertion",
    "AssertionError: ": "assertion",
}


def refusal_kind(reason: str) -> str | None:
    """What a refusal is about; None when no known word is in it."""
    return next((kind for words, kind in REFUSALS.items() if words in reason), None)
