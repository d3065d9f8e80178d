"""Every rule: deployments that pass, and what each rule finds when one or two things in them are broken."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pytest

from hybridserve.catalog.licenses import license
from hybridserve.compliance import Finding, compliance_status
from hybridserve.compliance.evaluate import RULES
from support.compliance_cases import Case, card, license_text, sha256

Change = Callable[[Case], Case]


@dataclass(frozen=True)
class Mutation:
    """One broken thing. `masks` are rules that no longer apply once this is broken."""

    name: str
    rule: str
    change: Change
    masks: frozenset[str] = frozenset()


# vLLM 0.33 takes the mode from enable_prefix_caching, whatever is set.
IGNORES_MODE = frozenset({"engine.cache-mode"})


def put(path: str, value: Any) -> Change:
    return lambda case: case.set(path, value)


def extra(name: str, value: Any) -> Change:
    return put(f"engine.extra_args.{name}", value)


def cache(**changes: Any) -> Change:
    return lambda case: case.cache(**changes)


def serving(**changes: Any) -> Change:
    return lambda case: replace(case, card=card(**changes))


def other_model(name: str) -> Change:
    return lambda case: replace(case.set("model.id", name), card=None)


def file(name: str, content: bytes | None) -> Change:
    return lambda case: replace(case, files=changed(case.files, name, content))


def shipped(name: str, text: str | None) -> Change:
    return lambda case: replace(case, bundle=changed(case.bundle, name, text))


def changed(files: Any, name: str, content: Any) -> dict[str, Any]:
    others = {key: value for key, value in (files or {}).items() if key != name}
    return others if content is None else {**others, name: content}


def accepted(**changes: Any) -> Change:
    def change(case: Case) -> Case:
        first, *rest = case.tree["license"]["accepted"]
        return case.set("license.accepted", [{**first, **changes}, *rest])

    return change


def not_accepted(case: Case) -> Case:
    return case.set("license.accepted", case.tree["license"]["accepted"][1:])


def without(path: str, value: str, default: tuple[str, ...]) -> Change:
    return put(path, [other for other in default if other != value])


REFUSED = ("chat_template", "vllm_xargs", "priority")
CONTROL_WORDS = ("/think", "/no_think", "</think>", "<think>")
GUARD_MODEL = frozenset(
    {"guard.model", "guard.model-revision", "guard.verdict-length", "guard.strictness", "guard.timeout",
     "guard.transport", "guard.overlap", "guard.input", "guard.output", "guard.kind", "guard.context",
     "guard.self-test"}
)  # fmt: skip
# Without an entry in registry and catalog there is no license to check and no card to compare with.
NO_ENTRY = frozenset(
    {"license.accepted", "license.source", "license.revision", "license.review-age", "license.guardrail",
     "license.model-name", "guard.control-words", "engine.reasoning-parser", "engine.tool-parser", "engine.version"}
)  # fmt: skip
SPECULATION = {"method": "mtp", "num_speculative_tokens": 3}

ANYWHERE = [
    # license
    Mutation("unknown-model", "license.known", other_model("someone/model"), NO_ENTRY),
    Mutation("license-not-reviewed", "license.known", other_model("jamba-1.5-mini"), NO_ENTRY),
    Mutation("other-revision", "license.revision", put("model.revision", "f" * 40)),
    Mutation("another-source", "license.source", put("model.source", "someone/nano-without-refusals")),
    Mutation("not-accepted", "license.accepted", not_accepted, frozenset({"license.review-age"})),
    Mutation("old-acceptance", "license.accepted", accepted(accepted="2026-01-01")),
    Mutation("future-acceptance", "license.accepted", accepted(accepted="2027-01-01")),
    Mutation("another-version-accepted", "license.accepted", accepted(license="nvidia-open-model-2025-01-06")),
    Mutation("review-one-year-old", "license.review-age", lambda c: replace(c, today=date(2027, 11, 23))),
    Mutation("template-with-guardrail", "license.guardrail", put("engine.chat_template", "other.jinja")),
    Mutation("adapter-with-guardrail", "license.guardrail", extra("enable_lora", True)),
    Mutation("derivative-name", "license.model-name",
             lambda c: c.set("license.derivative", True).set("model.served_name", "nvidia-own")),
    Mutation("mark-inside-the-name", "license.model-name",
             lambda c: c.set("license.derivative", True).set("model.served_name", "acme-nvidia-nemotron")),
    Mutation("mark-of-another-vendor", "license.model-name", put("model.served_name", "team-chatgpt4")),
    Mutation("expired-waiver", "license.waivers",
             put("license.waivers", [{"rule": "guard.kind", "by": "Legal", "reason": "for the pilot phase",
                                      "until": "2026-11-22"}])),
    Mutation("waiver-of-a-century", "license.waivers",
             put("license.waivers", [{"rule": "guard.kind", "by": "Legal", "reason": "for the pilot phase",
                                      "until": "2126-11-22"}])),
    # guard
    Mutation("no-guard", "guard.input", lambda c: c.set("guard.kind", "none"), GUARD_MODEL | {"license.flow-down"}),
    Mutation("no-output-guard", "guard.output", lambda c: c.set("guard.kind", "none"), GUARD_MODEL),
    Mutation("pattern-guard", "guard.kind", put("guard.kind", "rules"),
             frozenset({"guard.model", "guard.model-revision", "guard.verdict-length", "guard.strictness",
                        "guard.timeout", "guard.transport", "guard.context", "guard.self-test"})),
    Mutation("input-off", "guard.input", put("guard.input", "off")),
    Mutation("output-off", "guard.output", put("guard.output", False), frozenset({"guard.overlap"})),
    Mutation("no-overlap", "guard.overlap", put("guard.overlap_tokens", 0)),
    Mutation("unknown-guard", "guard.model", put("guard.model", "someone/guard")),
    Mutation("not-a-guard", "guard.model", put("guard.model", "qwen3-8b")),
    Mutation("wrong-format", "guard.model", put("guard.format", "llama_guard"), frozenset({"guard.strictness"})),
    Mutation("guard-not-pinned", "guard.model-revision", put("guard.revision", None)),
    Mutation("short-verdict", "guard.verdict-length", put("guard.max_tokens", 8)),
    Mutation("no-deadline", "guard.timeout", put("guard.timeout_s", 600)),
    Mutation("guard-without-tls", "guard.transport", put("guard.url", "http://guard.example.com/v1")),
    Mutation("guard-at-a-number", "guard.transport", put("guard.url", "http://134744072:8000/v1")),
    Mutation("guard-served-short", "guard.context", put("guard.max_model_len", 16384)),
    Mutation("rare-self-test", "guard.self-test", put("guard.canary_interval_s", 86400)),
    Mutation("other-template", "guard.overrides", put("engine.chat_template", "other.jinja")),
    Mutation("config-fields", "guard.overrides", put("engine.hf_overrides", {"rope_scaling": 2})),
    Mutation("logits-processor", "guard.overrides", put("engine.logits_processors", ["own.Processor"])),
    Mutation("lora", "guard.overrides", extra("enable_lora", True)),
    Mutation("own-tokenizer", "guard.overrides", extra("tokenizer", "someone/tokenizer")),
    Mutation("dashed-name", "guard.overrides", extra("hf-config-path", "other")),
    Mutation("request-templates", "guard.overrides", extra("trust_request_chat_template", True)),
    Mutation("template-kwargs", "guard.overrides", extra("default_chat_template_kwargs", {"enable_thinking": False})),
    Mutation("generation", "guard.overrides", extra("override_generation_config", {"temperature": 2})),
    Mutation("generation-vllm", "guard.overrides", extra("generation_config", "vllm")),
    Mutation("template-in-request", "guard.request-fields", without("access.refused_fields", "chat_template", REFUSED)),
    Mutation("guard-template-kwargs", "guard.prompt", put("guard.template_kwargs", {"guardian_config": {}})),
    Mutation("logged-prompts", "exposure.engine-arguments", extra("enable_log_requests", True)),
    Mutation("xargs-in-request", "guard.request-fields", without("access.refused_fields", "vllm_xargs", REFUSED)),
    *(Mutation(f"without-{word}", "guard.control-words", without("reasoning.control_words", word, CONTROL_WORDS))
      for word in CONTROL_WORDS[:3]),
    Mutation("remote-code", "guard.remote-code", put("engine.trust_remote_code", True)),
    # engine
    Mutation("refused", "engine.starts", lambda c: replace(c, refusal="no memory for one request")),
    Mutation("not-planned", "engine.starts", lambda c: replace(c, facts=None),
             frozenset({"engine.seqs-over-blocks", "engine.block-over-budget", "engine.prefix-cache-unusable",
                        "engine.prefix-cache-granularity", "engine.context-near-limit", "engine.block-size"})),
    Mutation("too-many-seqs", "engine.seqs-over-blocks", cache(max_num_seqs=1999)),
    Mutation("too-many-seqs-eager", "engine.seqs-over-blocks", cache(max_num_seqs=1999, full_cudagraphs=False)),
    Mutation("wide-block", "engine.block-over-budget", cache(block_size=7808)),
    Mutation("small-budget", "engine.block-over-budget", cache(max_num_batched_tokens=1311)),
    Mutation("prefix-cache-unusable", "engine.prefix-cache-unusable", cache(prefix_unit=32768)),
    Mutation("prefix-cache-granularity", "engine.prefix-cache-granularity", cache(prefix_unit=1312)),
    Mutation("context-near-limit", "engine.context-near-limit", cache(longest_context=33000)),
    Mutation("ssm-auto", "engine.ssm-dtype", put("engine.mamba_ssm_cache_dtype", "auto")),
    Mutation("ssm-fp16", "engine.ssm-dtype", put("engine.mamba_ssm_cache_dtype", "float16")),
    Mutation("ssm-bf16", "engine.ssm-dtype", put("engine.mamba_ssm_cache_dtype", "bfloat16")),
    Mutation("ssm-not-set", "engine.ssm-dtype",
             lambda c: replace(c.set("engine.mamba_ssm_cache_dtype", None), card=None),
             frozenset({"engine.version", "engine.reasoning-parser", "engine.tool-parser"})),
    Mutation("rounding-of-float32", "engine.stochastic-rounding",
             put("engine.enable_mamba_cache_stochastic_rounding", True), frozenset({"engine.ssm-dtype"})),
    Mutation("mtp-with-caching", "engine.mtp-prefix-cache", put("engine.speculative_config", SPECULATION)),
    Mutation("mtp-without-lookahead", "engine.mtp-prefix-cache",
             lambda c: c.set("engine.version", "0.33.0")
             .set("engine.speculative_config", {**SPECULATION, "disable_lookahead_block_hashes": True})),
    Mutation("mtp-with-connector", "engine.mtp-prefix-cache",
             lambda c: c.set("engine.version", "0.33.0").set("engine.speculative_config", SPECULATION)
             .set("engine.kv_transfer_config", {"kv_connector": "OffloadingConnector"})),
    Mutation("ngram", "engine.ngram", put("engine.speculative_config", {"method": "ngram"})),
    Mutation("mtp-on-cpu", "engine.cpu-speculation",
             lambda c: replace(c, platform="cpu").set("engine.speculative_config", SPECULATION)
             .set("engine.enable_prefix_caching", False), frozenset({"engine.mtp-prefix-cache"})),
    Mutation("ngram-on-cpu-of-0.32", "engine.cpu-speculation",
             lambda c: replace(c, platform="cpu").set("engine.version", "0.32.0")
             .set("engine.enable_prefix_caching", False).set("engine.speculative_config", {"method": "ngram"}),
             frozenset({"engine.ngram"})),
    Mutation("connector", "engine.kv-connector", put("engine.kv_transfer_config", {"kv_connector": "LMCache"})),
    Mutation("connector-in-multi", "engine.kv-connector",
             put("engine.kv_transfer_config", {"kv_connector": "MultiConnector", "kv_connector_extra_config":
                 {"connectors": [{"kv_connector": "OffloadingConnector"}, {"kv_connector": "LMCacheConnectorV1"}]}})),
    Mutation("connector-of-a-later-release", "engine.kv-connector",
             lambda c: c.set("engine.kv_transfer_config", {"kv_connector": "MoRIIOConnector"})
             .set("engine.version", "0.29.0")),
    Mutation("nixl-async", "engine.kv-connector", put("engine.kv_transfer_config", {"kv_connector": "NixlConnector"})),
    Mutation("events", "engine.kv-events", extra("kv_events_config", {"enable_kv_cache_events": True})),
    Mutation("no-hybrid-manager", "engine.hybrid-manager", extra("disable_hybrid_kv_cache_manager", True)),
    Mutation("block-size", "engine.block-size", put("engine.block_size", 64)),
    Mutation("mamba-block-size", "engine.block-size", extra("mamba_block_size", 64)),
    Mutation("no-block-size-on-cpu", "engine.block-size", lambda c: replace(c, platform="cpu")),
    Mutation("wrong-block-size-on-cpu", "engine.block-size",
             lambda c: replace(c, platform="cpu").set("engine.block_size", 128)),
    Mutation("ignored-argument", "engine.ignored-argument",
             lambda c: c.set("engine.version", "0.32.0").set("engine.extra_args.disable_cascade_attn", True)),
    Mutation("removed-argument", "engine.removed-argument",
             lambda c: c.set("engine.version", "0.31.0")
             .set("engine.extra_args.enable_mamba_fine_grained_prefix_cache", True)),
    Mutation("removed-speculation", "engine.removed-argument",
             lambda c: c.set("engine.version", "0.33.0")
             .set("engine.speculative_config", {"method": "medusa", "num_speculative_tokens": 2}), IGNORES_MODE),
    Mutation("ray-without-imports", "engine.ray-version", put("engine.version", "0.33.0"), IGNORES_MODE),
    Mutation("no-chunks", "engine.chunked-prefill", extra("enable_chunked_prefill", False)),
    Mutation("mode-all", "engine.cache-mode", put("engine.mamba_cache_mode", "all")),
    Mutation("mode-all-removed", "engine.cache-mode",
             lambda c: c.set("engine.mamba_cache_mode", "all").set("engine.version", "0.32.0")),
    Mutation("cpu-align", "engine.cache-mode",
             lambda c: replace(c, platform="cpu").set("engine.version", "0.32.0").set("engine.block_size", 1312)),
    Mutation("auto-dtype", "engine.auto-dtype", put("engine.dtype", "auto")),
    Mutation("auto-kv", "engine.auto-dtype", put("engine.kv_cache_dtype", "auto")),
    Mutation("auto-conv", "engine.auto-dtype", put("engine.mamba_cache_dtype", "auto")),
    Mutation("no-parser", "engine.reasoning-parser", put("engine.reasoning_parser", None)),
    Mutation("wrong-parser", "engine.reasoning-parser", serving(reasoning_parser="nano_v3")),
    Mutation("parser-that-vllm-lacks", "engine.tool-parser",
             lambda c: replace(c, card=card(parser_plugin="use it")).set("engine.tool_call_parser", "hermes")),
    Mutation("wrong-tool-parser", "engine.tool-parser",
             lambda c: replace(c, card=card(tool_call_parser="qwen3_coder")).set("engine.tool_call_parser", "hermes")),
    Mutation("tools-without-parser", "engine.tool-parser", extra("enable_auto_tool_choice", True)),
    Mutation("budget", "engine.reasoning-config", extra("reasoning_config", {"reasoning_end_str": "</think>"})),
    Mutation("budget-mtp", "engine.budget-speculation",
             lambda c: c.set("engine.speculative_config", SPECULATION)
             .set("engine.extra_args.reasoning_config", {"reasoning_end_str": "</think>"})),
    Mutation("old-engine", "engine.version", put("engine.version", "0.9.2")),
    # exposure
    Mutation("key-in-args", "exposure.secrets", extra("api_key", "abc")),
    Mutation("token-in-value", "exposure.secrets", extra("note", "hf_" + "a" * 24)),
    Mutation("password-in-url", "exposure.secrets", put("guard.url", "https://user:word@guard/v1")),
    Mutation("key-in-query", "exposure.secrets", put("guard.url", "https://guard.example/v1?api_key=abc")),
    Mutation("keys-in-list", "exposure.secrets", extra("api_key", ["abc"])),
    Mutation("no-keys", "exposure.keys", put("access.keys_file", None)),
    Mutation("anonymous", "exposure.keys", put("access.anonymous_scopes", ["inference"])),
    Mutation("anonymous-admin", "exposure.keys", put("access.anonymous_scopes", ["admin"])),
    Mutation("public-metrics", "exposure.metrics", put("access.anonymous_scopes", ["metrics"])),
    Mutation("open-metrics-port", "exposure.ports", put("telemetry.metrics_host", "0.0.0.0")),
    Mutation("invocations", "exposure.routes", put("access.open_routes", ["POST /invocations"])),
    Mutation("branch", "exposure.model-revision", put("model.revision", "main"), frozenset({"license.revision"})),
    Mutation("tag", "exposure.image", put("license.image", "registry.example/hybridserve:latest")),
    Mutation("short-digest", "exposure.image", put("license.image", "registry.example/h@sha256:abc")),
]  # fmt: skip

ON_BAKED = [
    Mutation("no-bundle", "license.copy", lambda c: replace(c, bundle=None)),
    Mutation("no-copy", "license.copy", shipped("licenses/nvidia-open-model-2025-10-24.txt", None)),
    Mutation("cut-copy", "license.copy",
             shipped("licenses/nvidia-open-model-2025-10-24.txt",
                     "NVIDIA Open Model License Agreement October 24, 2025 " + "words " * 800)),
    Mutation("other-version", "license.copy",
             shipped("licenses/nvidia-open-model-2025-10-24.txt",
                     "NVIDIA Open Model License Agreement April 28, 2025 " + "words " * 1500)),
    Mutation("no-notice", "license.notice", shipped("NOTICE", None)),
    Mutation("notice-reworded", "license.notice",
             shipped("NOTICE", "Licensed by NVIDIA under the NVIDIA Open Model License\n")),
    Mutation("notice-within-a-line", "license.notice",
             shipped("NOTICE", "Not: Licensed by NVIDIA Corporation under the NVIDIA Open Model License\n")),
    *(Mutation(f"{name}-changed", rule, file(name, b"changed")) for name, rule in (
        ("chat_template.jinja", "guard.chat-template"), ("tokenizer.json", "guard.tokenizer"),
        ("tokenizer_config.json", "guard.tokenizer"), ("generation_config.json", "guard.generation-config"))),
    *(Mutation(f"{name}-missing", rule, file(name, None)) for name, rule in (
        ("chat_template.jinja", "guard.chat-template"), ("tokenizer.json", "guard.tokenizer"),
        ("special_tokens_map.json", "guard.tokenizer"), ("generation_config.json", "guard.generation-config"))),
    Mutation("config-changed", "guard.pinned-files", file("config.json", b'{"hidden_size": 1}')),
    Mutation("config-missing", "guard.pinned-files", file("config.json", None)),
    Mutation("new-template", "guard.chat-template", file("chat_template.json", b"{}")),
    Mutation("changed-with-guardrail", "license.guardrail", file("tokenizer.json", b"changed")),
    Mutation("code-not-pinned", "guard.remote-code",
             lambda c: file("modeling.py", b"code")(replace(c, card=card(trust_remote_code=True)))
             .set("engine.trust_remote_code", True)),
    Mutation("no-image", "exposure.image", put("license.image", None)),
]  # fmt: skip

ON_LLAMA_GUARD = [
    Mutation("no-page", "license.service-line", lambda c: replace(c, about=None)),
    Mutation("page-without-line", "license.service-line", lambda c: replace(c, about="We use Llama.")),
    Mutation("users-not-declared", "license.limits", put("license.monthly_users", None)),
    Mutation("too-many-users", "license.limits", put("license.monthly_users", 700_000_001)),
]
ON_GEMMA_GUARD = [
    Mutation("no-terms", "license.flow-down", lambda c: replace(c, terms=None)),
    Mutation("terms-without-policy", "license.flow-down", lambda c: replace(c, terms="Be good.")),
    Mutation("hosted-without-copy", "license.copy", lambda c: replace(c, bundle={"a.txt": "nothing"})),
]
# Without a parser in the settings the card's parser is used, so the second change repairs the first.
REPAIRS = [{"no-parser", "wrong-parser"}]
BASES = {"case": ANYWHERE, "baked": ON_BAKED, "llama_guard": ON_LLAMA_GUARD, "gemma_guard": ON_GEMMA_GUARD}
SINGLES = [(base, mutation) for base, mutations in BASES.items() for mutation in mutations]
# What breaks the plain deployment must be found in the others as well.
SINGLES += [(base, mutation) for base in ("baked", "llama_guard", "gemma_guard") for mutation in ANYWHERE
            if mutation.name not in ("unknown-model", "license-not-reviewed", "wrong-format")]  # fmt: skip
SEVERITY = {rule.id: rule.severity for rule in RULES}
PAIRS_PER_BASE = 300


def broken_rules(findings: list[Finding]) -> set[str]:
    return {finding.rule for finding in findings if finding.status != "PASS"}


@pytest.mark.parametrize("base", BASES)
def test_unchanged_deployment_passes_under_every_profile(base: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(base)
    findings = case.findings()
    assert [f"{found.rule} {found.subject}: {found.evidence}" for found in findings if found.status != "PASS"] == []
    for profile in ("production", "staging", "demo"):
        assert compliance_status(findings, profile) == "ready"


@pytest.mark.parametrize(("base", "mutation"), SINGLES, ids=lambda value: getattr(value, "name", value))
def test_each_mutation_is_found(base: str, mutation: Mutation, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(base)
    findings = mutation.change(case).findings()
    assert mutation.rule in broken_rules(findings)
    expected = {"error": "refuse", "warning": "warn", "note": "ready"}
    assert compliance_status(findings, "production") == expected[SEVERITY[mutation.rule]]


def test_every_rule_has_a_mutation() -> None:
    elsewhere = {
        "license.changes",
        "license.domicile",
        "license.retained-notices",
        "license.special-purpose",
        "guard.strictness",
        "guard.evidence",
        "engine.verified",
        "engine.online-quantization",
    }
    assert {mutation.rule for _, mutation in SINGLES} | elsewhere == {rule.id for rule in RULES}


@pytest.mark.parametrize("base", BASES)
def test_second_mutation_is_found_beside_the_first(base: str, request: pytest.FixtureRequest) -> None:
    """A random sample of ordered pairs. Where both change one setting, the later change counts."""
    case: Case = request.getfixturevalue(base)
    pairs = list(itertools.permutations(BASES[base], 2))
    hidden = []
    for first, second in random.Random(base).sample(pairs, min(PAIRS_PER_BASE, len(pairs))):
        if {first.name, second.name} in REPAIRS:
            continue
        findings = second.change(first.change(case)).findings()
        found = broken_rules(findings)
        expected = "refuse" if any(SEVERITY[rule] == "error" for rule in found) else "warn"
        if second.rule not in found | first.masks or compliance_status(findings, "production") != expected:
            hidden.append(f"{first.name} + {second.name}: {second.rule} is not found")
    assert hidden == []


def test_notice_files_of_the_checkpoint_must_ship(baked: Case) -> None:
    # Apache requires it of a changed copy; the license of the example, for components under other licenses.
    qwen = replace(baked.set("model.id", "qwen3-8b"), card=card(id="qwen3-8b"))
    apache = shipped("CHANGES.md", "We quantized the weights.")(qwen).set("license.derivative", True)
    for case, without_folder in ((apache, {"UNKNOWN"}), (baked, {"PASS"})):
        assert "license.retained-notices" not in broken_rules(case.findings())
        for text in (None, "changed"):
            assert shipped("upstream/bias.md", text)(case).status("license.retained-notices") == {"FAIL"}
        assert replace(case, files=None).status("license.retained-notices") == without_folder
    assert shipped("upstream/bias.md", None)(qwen).status("license.retained-notices") == {"PASS"}


def test_shard_with_a_recorded_hash_must_be_unchanged(baked: Case) -> None:
    shard = "model-00001-of-00001.safetensors"
    pinned = {**baked.tree["license"]["pinned_files"], shard: sha256(b"weights")}
    case = file(shard, b"weights")(baked).set("license.pinned_files", pinned)
    assert broken_rules(case.findings()) == set()
    for content in (b"WEIGHTS", None):
        assert broken_rules(file(shard, content)(case).findings()) == {"guard.pinned-files", "license.guardrail"}


def test_changed_copy_needs_a_notice_of_changes_where_it_is_distributed(baked: Case) -> None:
    changed = replace(baked.set("model.id", "qwen3-8b"), card=card(id="qwen3-8b")).set("license.derivative", True)
    assert changed.status("license.changes") == {"FAIL"}
    assert shipped("CHANGES.md", "Our first release.")(changed).status("license.changes") == {"FAIL"}
    assert shipped("CHANGES.md", "We fine-tuned the weights.")(changed).status("license.changes") == {"PASS"}
    assert changed.set("license.weights", "pulled").status("license.changes") == {"PASS"}  # hosted only


@pytest.mark.parametrize(
    ("notice", "status"),
    [
        ("Licensed by NVIDIA Corporation under\nthe NVIDIA Open\nModel License\n", "PASS"),
        ("Models\n\n  Licensed by NVIDIA Corporation under the NVIDIA Open Model License.\n", "PASS"),
        ("Licensed by NVIDIA Corporation\n\nunder the NVIDIA Open Model License\n", "FAIL"),
        ("Licensed by NVIDIA Corporation under the NVIDIA Open Model License 2\n", "FAIL"),
        ("Not Licensed by NVIDIA Corporation under\nthe NVIDIA Open Model License\n", "FAIL"),
    ],
)
def test_notice_line_may_be_wrapped_and_end_with_a_full_stop(baked: Case, notice: str, status: str) -> None:
    assert shipped("NOTICE", notice)(baked).status("license.notice") == {status}


def test_unchanged_nemotron_3_image_needs_only_the_license_copy(baked: Case) -> None:
    name, licenses = "nemotron-3-nano-30b-a3b", ("nvidia-nemotron-open-model-2025-12-15", "apache-2.0")
    accepted = [{"license": license_id, "by": "Legal", "accepted": "2026-11-20"} for license_id in licenses]
    nemotron = replace(
        baked.set("model.id", name).set("license.accepted", accepted).set("model.revision", "c" * 40),
        card=card(id=name).model_copy(update={"repository": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"}),
        bundle={"LICENSE": license_text(license("nvidia-nemotron-open-model-2025-12-15"))},
    )
    assert broken_rules(nemotron.findings()) == set()
    changed = nemotron.set("license.derivative", True)
    assert {"license.notice", "license.retained-notices"} <= broken_rules(changed.findings())


def test_guard_in_an_image_has_the_duties_of_distribution(case: Case) -> None:
    inside = case.set("guard.weights", "baked")
    assert broken_rules(inside.findings()) == {"license.copy"}
    shipping = replace(inside, bundle={"LICENSE": license_text(license("apache-2.0"))})
    assert broken_rules(shipping.findings()) == set()


@pytest.mark.parametrize(("country", "status"), [(None, "UNKNOWN"), ("DE", "FAIL"), ("CH", "PASS")])
def test_llama_4_guard_is_excluded_in_the_european_union(case: Case, country: str | None, status: str) -> None:
    llama = case.set("guard.model", "llama-guard-4-12b").set("license.domicile", country)
    assert llama.status("license.domicile") == {status}
    assert llama.set("license.commercial", ["llama-4"]).status("license.domicile") == {"PASS"}


def test_guard_model_must_not_be_offered_for_chat(case: Case) -> None:
    offered = replace(case.set("model.id", "llama-3.1-nemotron-safety-guard-8b-v3"), card=None)
    assert offered.status("license.special-purpose") == {"FAIL"}


def test_controversial_verdict_must_block(case: Case) -> None:
    assert case.set("guard.controversial", "allow").status("guard.strictness") == {"FAIL"}


def test_single_data_path_needs_no_ray(case: Case) -> None:
    late = case.set("engine.version", "0.33.0")
    assert "engine.ray-version" in broken_rules(late.findings())
    assert "engine.ray-version" not in broken_rules(late.set("server.data_path", "single").findings())
