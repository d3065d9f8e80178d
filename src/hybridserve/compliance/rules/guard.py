"""Guard settings: prompts and answers are checked, the guard is reliable, and the model's own behavior is unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from urllib.parse import urlsplit

from hybridserve.compliance.evidence import LIVE_RULES
from hybridserve.compliance.evidence import subject as evidence_subject
from hybridserve.compliance.findings import Outcome, failed, passed, require, unknown
from hybridserve.compliance.overrides import overrides
from hybridserve.compliance.rules.base import RuleFamily, clause, duties, is_commit, is_loopback, record_outcomes
from hybridserve.compliance.view import DeploymentView

GUARD = RuleFamily("guard")

CHAT_TEMPLATE = frozenset({"chat_template.jinja", "chat_template.json"})
TOKENIZER = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
     "vocab.json", "merges.txt"}
)  # fmt: skip
GENERATION = frozenset({"generation_config.json"})
# A JSON verdict needs 50 tokens; a guard that reasons first needs 400.
REASONING_FORMATS = frozenset({"nemotron_reasoning"})
POLICY = "policy; the license's guardrail clause where it has one"
CARD = "https://huggingface.co/nvidia/NVIDIA-Nemotron-Nano-9B-v2: the template searches for these strings"
# Request fields that replace the chat template, change sampling, or fetch a cache, in ways that the guard does not see.
ENGINE_FIELDS = frozenset({"chat_template", "vllm_xargs", "kv_transfer_params", "ec_transfer_params"})
# Arguments of a chat template, or of what renders it, that replace or cut off what the guard has read.
TEMPLATE_FIELDS = frozenset({
    "add_generation_prompt", "available_tools", "chat_template", "continue_final_message", "conversation", "documents",
    "max_length", "messages", "padding", "tokenize", "tokenizer_kwargs", "tools", "truncation",
})  # fmt: skip
CONTROL_WORDS = frozenset({"/think", "/no_think", "</think>"})
LONGEST_VERDICT_S = 30.0
# A guard that stopped working is noticed after this many seconds at the latest.
LONGEST_UNNOTICED_S = 900.0
_FORMATS = {
    "qwen3guard": "qwen3guard",
    "granite-guardian": "granite_guardian",
    "llama-guard": "llama_guard",
    "llama-3.1-nemotron-safety-guard": "nemotron_safety_guard",
    "nemotron-content-safety-reasoning": "nemotron_reasoning",
    "nemotron-3": "nemotron_content_safety",
}


def _guard_model(view: DeploymentView) -> bool:
    return view.guard.kind == "model"


def _guard_service(view: DeploymentView) -> bool:
    return view.guard.kind in ("model", "nemo")


@GUARD.rule(
    "input",
    "A guard checks every prompt",
    basis=POLICY,
    remedy="set guard.kind to model or nemo and guard.input to before or overlap",
)
def guard_input(view: DeploymentView) -> Outcome:
    guard = view.guard
    if guard.kind == "none":
        return failed("guard.kind is none")
    if guard.input not in ("before", "overlap"):
        return failed(f"guard.input is {guard.input}")
    return passed(f"{guard.kind} guard, input {guard.input}")


@GUARD.rule(
    "output",
    "A guard checks every answer before it is delivered, including reasoning and tool calls",
    basis="NeMo Guardrails delivers streams before the check by default (stream_first: True)",
    remedy="set guard.kind to model or nemo and guard.output to true",
)
def guard_output(view: DeploymentView) -> Outcome:
    if view.guard.kind == "none":
        return failed("guard.kind is none")
    if not view.guard.output:
        return failed("guard.output is false")
    return passed(f"{view.guard.kind} guard, text is withheld until the verdict")


@GUARD.rule(
    "kind",
    "The guard is a classifier, not a list of patterns",
    basis="policy: patterns match only what they were written for",
    remedy="set guard.kind to model (Qwen3Guard-Gen and Granite Guardian are Apache-2.0) or to nemo",
    when=lambda view: view.guard.kind != "none",
)
def kind(view: DeploymentView) -> Outcome:
    return require(view.guard.kind != "rules", f"guard.kind is {view.guard.kind}")


@GUARD.rule(
    "overlap",
    "The windows of a stream overlap",
    basis="a phrase that is split between two windows is in neither of them",
    remedy="set guard.overlap_tokens to 10 or more",
    when=lambda view: view.guard.kind != "none" and view.guard.output,
)
def overlap(view: DeploymentView) -> Outcome:
    return require(view.guard.overlap_tokens >= 10, f"guard.overlap_tokens is {view.guard.overlap_tokens}")


@GUARD.rule(
    "model",
    "The guard model is in the registry and matches the parser of its verdicts",
    basis="policy: a strict parser reads one format; another model's verdict would be an error on every request",
    remedy="set guard.model to a registry id or its repository (guard.served_name, if the endpoint uses another name), "
    "and guard.format to that model's format",
    when=_guard_service,
)
def model(view: DeploymentView) -> Outcome:
    guard, part = view.guard, view.guard_model
    if part is None or part.entry is None:
        return unknown(f"guard.model {guard.model!r} has no registry entry")
    if not part.entry.guard:
        return failed(f"{part.entry.id} is not a guard model", part.id)
    expected = guard_format(part.entry.id)
    if guard.kind == "nemo":
        return passed(f"NeMo Guardrails runs {part.entry.id}", part.id)
    if guard.format != expected:
        return failed(f"guard.format is {guard.format}, but {part.entry.id} answers as {expected}", part.id)
    return passed(f"{part.entry.id} answers as {guard.format}", part.id)


@GUARD.rule(
    "model-revision",
    "The guard model is pinned to a commit",
    basis="policy: evidence is valid only for the weights that it was collected with",
    remedy="set guard.revision to the 40 hex digits of the guard's commit",
    when=_guard_service,
)
def model_revision(view: DeploymentView) -> Outcome:
    revision = view.guard.revision
    return passed(f"at {revision}") if is_commit(revision) else failed(f"guard.revision is {revision or 'empty'}")


@GUARD.rule(
    "verdict-length",
    "The token limit of the guard is large enough for a whole verdict",
    basis="NeMo Guardrails' default of 3 tokens cuts a JSON verdict",
    remedy="set guard.max_tokens to 50 or more; 400 or more for a guard that reasons",
    when=_guard_model,
)
def verdict_length(view: DeploymentView) -> Outcome:
    least = 400 if view.guard.format in REASONING_FORMATS else 50
    return require(view.guard.max_tokens >= least, f"guard.max_tokens is {view.guard.max_tokens}; {least} are needed")


@GUARD.rule(
    "prompt",
    "The guard model judges with its own prompt",
    basis="policy: another prompt, or other arguments of the guard's template, can make it judge something else",
    remedy="leave guard.prompt_file and guard.template_kwargs empty; or show that the guard blocks and passes what it "
    "has to with hybridserve check --live URL --evidence FILE, and set guard.evidence_file",
    when=_guard_model,
)
def prompt(view: DeploymentView) -> Outcome:
    guard = view.guard
    changed = [name for name in ("prompt_file", "template_kwargs") if getattr(guard, name)]
    if not changed:
        return passed("the prompt of its card")
    if view.evidence is None:
        return unknown(f"set: guard.{', guard.'.join(changed)}; there is no evidence that the guard works with it")
    return passed(f"set: guard.{', guard.'.join(changed)}; see guard.evidence")


@GUARD.rule(
    "strictness",
    "A controversial verdict blocks",
    basis="https://github.com/QwenLM/Qwen3Guard: Controversial is a separate verdict",
    remedy="set guard.controversial to block, or waive this rule with the reason for your use",
    when=lambda view: _guard_model(view) and view.guard.format == "qwen3guard",
)
def strictness(view: DeploymentView) -> Outcome:
    return require(view.guard.controversial == "block", f"guard.controversial is {view.guard.controversial}")


@GUARD.rule(
    "timeout",
    "A guard call has a deadline",
    basis="policy: a guard that hangs must become 503 guard_unavailable while the client still waits",
    remedy=f"set guard.timeout_s to {LONGEST_VERDICT_S:.0f} or less",
    when=_guard_service,
)
def timeout(view: DeploymentView) -> Outcome:
    return require(0 < view.guard.timeout_s <= LONGEST_VERDICT_S, f"guard.timeout_s is {view.guard.timeout_s:g}")


@GUARD.rule(
    "context",
    "The guard reads everything that the model reads",
    basis="policy: a conversation that is longer than the guard's context gets no verdict, so every such request fails",
    remedy="lower engine.max_model_len, or use a guard with a longer context; for a guard "
    "without a registry entry set guard.max_model_len",
    when=_guard_service,
)
def context(view: DeploymentView) -> Outcome:
    part, cache = view.guard_model, view.engine.cache
    model = view.engine.args.get("max_model_len") or (cache.max_model_len if cache else None)
    # A guard can be served with less than its context, not with more.
    limits = [n for n in (view.guard.max_model_len, part and part.entry and part.entry.context) if n]
    if model is None or not limits:
        return unknown(f"the context of the {'model' if model is None else 'guard'} is not known")
    return require(min(limits) >= model, f"the guard takes {min(limits):,} tokens, the model {model:,}")


@GUARD.rule(
    "self-test",
    "A guard that stops working is noticed soon",
    basis="policy: the service's own canaries are what notices a guard that answers and checks nothing",
    remedy=f"keep guard.canary_interval_s times guard.canary_failures at {LONGEST_UNNOTICED_S:.0f} s or less",
    when=_guard_service,
)
def self_test(view: DeploymentView) -> Outcome:
    interval, failures = view.guard.canary_interval_s, view.guard.canary_failures
    return require(interval * failures <= LONGEST_UNNOTICED_S, f"{failures} self-tests at intervals of {interval:g} s")


@GUARD.dated_rule(
    "evidence",
    "The evidence record is about this deployment, recent, and without a failure",
    basis="policy: evidence is valid only for the model, guard and settings that it was collected with",
    remedy="collect it again with hybridserve check --live URL --evidence FILE",
)
def evidence(view: DeploymentView, today: date) -> Iterator[Outcome]:
    record = view.evidence
    if record is None:
        return
    yield from record_outcomes(record, evidence_subject(view.settings), view.guard.evidence_max_age_days, today)
    rows = record.get("findings") or ()
    unproven = {rule.id for rule in LIVE_RULES} - {row["rule"] for row in rows}
    unproven |= {row["rule"] for row in rows if row["status"] != "PASS"}
    names = ", ".join(sorted(unproven))
    yield require(not unproven, f"failed or not tested: {names}" if names else "all canaries passed", "findings")


@GUARD.rule(
    "transport",
    "Prompts reach the guard over a protected path",
    basis="policy: the guard's endpoint receives every prompt and answer",
    remedy="use https, or a guard on this host or inside the cluster (a name without a dot, or ending in .svc or "
    ".cluster.local)",
    when=_guard_service,
)
def transport(view: DeploymentView) -> Outcome:
    if view.guard.kind == "model" and view.guard.url is None:
        return passed("guard.url is empty: the chart runs the guard behind its own Service, and nothing else starts")
    url = urlsplit(view.guard.url or "")
    host = url.hostname or ""
    if url.scheme == "https":
        return passed("https")
    if url.scheme == "http" and _is_internal(host):
        return passed(f"http to {host}, inside the host or cluster")
    return failed(f"guard.url is {url.scheme}{'://' + host if host else ' without a host'}")


@GUARD.rule(
    "overrides",
    "No engine argument replaces a part of the checkpoint or changes answers",
    basis=POLICY,
    remedy="remove the argument; or waive this rule and name the guard that replaces what was removed",
)
def no_overrides(view: DeploymentView) -> Outcome:
    found = overrides(view.engine.args)
    return require(not found, ", ".join(found) or "none set", basis=_guardrail_clause(view))


@GUARD.rule(
    "request-fields",
    "A request cannot replace the chat template, change the sampler or name a cache",
    basis=POLICY,
    remedy="keep chat_template, vllm_xargs, kv_transfer_params and ec_transfer_params in access.refused_fields, and "
    "switches of the template only in reasoning.template_kwargs",
)
def request_fields(view: DeploymentView) -> Outcome:
    open_fields = sorted(ENGINE_FIELDS - set(view.settings.access.refused_fields))
    open_fields += sorted(TEMPLATE_FIELDS & set(view.settings.reasoning.template_kwargs))
    return failed(f"requests may set {', '.join(open_fields)}") if open_fields else passed("refused in requests")


@GUARD.rule(
    "control-words",
    "Strings that switch the model's reasoning are escaped in users' text",
    basis=CARD,
    remedy="keep /think, /no_think and </think> in reasoning.control_words",
    when=lambda view: view.reasoning and view.chat,
)
def control_words(view: DeploymentView) -> Outcome:
    missing = sorted(CONTROL_WORDS - set(view.settings.reasoning.control_words))
    return failed(f"users may write {', '.join(missing)}") if missing else passed("escaped")


def _file_rule(name: str, what: str, files: frozenset[str]) -> None:
    @GUARD.rule(
        name,
        f"The {what} is that of the pinned revision",
        basis=POLICY,
        remedy="restore the file; or record the hash that you trust in license.pinned_files",
    )
    def same(view: DeploymentView) -> Iterator[Outcome]:
        return _same_files(view, files)


_file_rule("chat-template", "chat template", CHAT_TEMPLATE)
_file_rule("tokenizer", "tokenizer", TOKENIZER)
_file_rule("generation-config", "generation config", GENERATION)


@GUARD.rule(
    "pinned-files",
    "Every other file with a recorded hash is unchanged",
    basis=POLICY,
    remedy="restore the file; or record the hash that you trust in license.pinned_files",
    when=lambda view: view.files.present is not None,
)
def pinned_files(view: DeploymentView) -> Iterator[Outcome]:
    return _same_files(view, frozenset(view.files.pinned) - CHAT_TEMPLATE - TOKENIZER - GENERATION)


@GUARD.rule(
    "remote-code",
    "Python code from the checkpoint runs only where the model needs it, and is unchanged",
    basis=POLICY,
    remedy="set engine.trust_remote_code to false; where the model needs it, pin the revision and the files",
)
def remote_code(view: DeploymentView) -> Outcome | Iterator[Outcome]:
    if not view.engine.args.get("trust_remote_code"):
        return passed("engine.trust_remote_code is false")
    if not (view.serving and view.serving.trust_remote_code):
        return failed("engine.trust_remote_code is true, but this model has no code in its checkpoint")
    return _same_files(view, frozenset(name for name in view.files.present or {} if name.endswith(".py")))


def behavior_files(present: Mapping[str, str]) -> dict[str, str]:
    """Of the files in a model's folder, those whose hashes these rules compare."""
    compared = CHAT_TEMPLATE | TOKENIZER | GENERATION
    return {name: digest for name, digest in present.items() if name in compared or name.endswith(".py")}


def guard_format(guard: str) -> str | None:
    """The `guard.format` in which a guard model of the registry answers; None for a model that is not known."""
    return next((form for prefix, form in _FORMATS.items() if guard.startswith(prefix)), None)


def _same_files(view: DeploymentView, names: frozenset[str]) -> Iterator[Outcome]:
    basis = _guardrail_clause(view)
    present, pinned = view.files.present, view.files.pinned
    if present is None:
        # Without the files, only a commit can identify their content.
        revision = view.model.revision or ""
        # A path (no repository) names no commit, whatever model.revision says.
        if is_commit(revision) and view.license.weights != "mounted" and view.model.repository is not None:
            yield passed(f"fetched at commit {revision[:12]}, which identifies the content", basis=basis)
        else:
            # A commit names the files of a repository only.
            mounted = view.license.weights == "mounted" or view.model.repository is None
            commit = "set model.revision to the 40 hex digits of a commit, which identifies each file of the model; or "
            fix = f"{'' if mounted else commit}check where the model's folder is, with hashes in license.pinned_files"
            missing = "the model's folder is not here, and no commit identifies its content"
            yield unknown(missing, basis=basis, remedy=fix)
        return
    for name in sorted(names & (present.keys() | pinned.keys())):
        expected, actual = pinned.get(name), present.get(name)
        if actual is None:
            yield failed("missing from the model's folder", name, basis)
        elif expected is None:
            yield unknown(f"sha256 {actual[:12]} is present; the correct hash is not recorded", name, basis)
        elif actual != expected:
            yield failed(f"sha256 is {actual[:12]}, pinned is {expected[:12]}", name, basis)
        else:
            yield passed(f"sha256 {actual[:12]}", name, basis)


def _guardrail_clause(view: DeploymentView) -> str | None:
    return "; ".join(clause(license, duty) for _, license, duty in duties(view, "guardrail", [view.model])) or None


def _is_internal(host: str) -> bool:
    """Whether the host is this machine or has a name inside the cluster."""
    if is_loopback(host):
        return True
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host):  # other characters become dots in a resolver, such as U+3002 and %2e
        return False
    if host.endswith((".svc", ".cluster.local")):
        return True
    # A resolver reads a number without dots, such as 134744072 or 0x08080808, as an IPv4 address.
    number = re.fullmatch(r"(?i)0x[0-9a-f]+|[0-9]+", host)
    return "." not in host and not number
