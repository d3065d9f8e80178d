"""Guard settings: is there a guard on both sides, can it be relied on, and is the model's own behaviour as shipped."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from hybridserve.compliance.findings import Outcome, failed, passed, unknown
from hybridserve.compliance.overrides import overrides
from hybridserve.compliance.rules.base import RuleBook, clause, duties
from hybridserve.compliance.rules.license import COMMIT
from hybridserve.compliance.view import DeploymentView

GUARD = RuleBook("guard")

CHAT_TEMPLATE = frozenset({"chat_template.jinja", "chat_template.json"})
TOKENIZER = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
     "vocab.json", "merges.txt"}
)  # fmt: skip
GENERATION = frozenset({"generation_config.json"})
# A verdict as JSON needs 50 tokens; a guard that reasons first needs 400.
REASONING_FORMATS = frozenset({"nemotron_reasoning"})
POLICY = "policy; the license's guardrail clause where it has one"
CARD = "https://huggingface.co/nvidia/NVIDIA-Nemotron-Nano-9B-v2: the template looks for these words as substrings"
# Fields of a request that replace the template or reach the sampler past the guard.
ENGINE_FIELDS = frozenset({"chat_template", "vllm_xargs"})
CONTROL_WORDS = frozenset({"/think", "/no_think", "</think>"})
LONGEST_VERDICT_S = 30.0


@GUARD.rule(
    "input",
    "A guard checks every prompt",
    basis=POLICY,
    remedy="set guard.kind to model or nemo and guard.input to before or overlap",
)
def guard_input(view: DeploymentView) -> Iterator[Outcome]:
    guard = view.guard
    if guard.kind == "none":
        yield failed("guard.kind is none")
    elif guard.input not in ("before", "overlap"):
        yield failed(f"guard.input is {guard.input}")
    else:
        yield passed(f"{guard.kind} guard, input {guard.input}")


@GUARD.rule(
    "output",
    "A guard checks every answer before it is delivered, reasoning and tool calls included",
    basis="NeMo Guardrails delivers streams before the check by default (stream_first: True)",
    remedy="set guard.kind to model or nemo and guard.output to true",
)
def guard_output(view: DeploymentView) -> Iterator[Outcome]:
    guard = view.guard
    if guard.kind == "none":
        yield failed("guard.kind is none")
    elif not guard.output:
        yield failed("guard.output is false")
    else:
        yield passed(f"{guard.kind} guard, windows held back until the verdict")


@GUARD.rule(
    "kind",
    "The guard is a classifier, not a list of patterns",
    basis="policy: patterns catch what they were written for and nothing else",
    remedy="set guard.kind to model (Qwen3Guard-Gen and Granite Guardian are Apache-2.0) or to nemo",
)
def kind(view: DeploymentView) -> Iterator[Outcome]:
    if view.guard.kind == "rules":
        yield failed("guard.kind is rules")
    elif view.guard.kind != "none":
        yield passed(f"guard.kind is {view.guard.kind}")


@GUARD.rule(
    "overlap",
    "Windows of a stream overlap",
    basis="a phrase cut in two by a window's edge is in neither half",
    remedy="set guard.overlap_tokens to 10 or more",
)
def overlap(view: DeploymentView) -> Iterator[Outcome]:
    guard = view.guard
    if guard.kind == "none" or not guard.output:
        return
    told = f"guard.overlap_tokens is {guard.overlap_tokens}"
    yield passed(told) if guard.overlap_tokens >= 10 else failed(told)


@GUARD.rule(
    "model",
    "The guard model is in the registry and suits its verdict's parser",
    basis="policy: a strict parser reads one form; another model's verdict would be an error on every request",
    remedy="set guard.model to a registry id or its repository, and guard.format to that model's form",
)
def model(view: DeploymentView) -> Iterator[Outcome]:
    guard, part = view.guard, view.guard_model
    if guard.kind != "model":
        return
    if part is None or part.entry is None:
        yield unknown(f"guard.model {guard.model!r} is in no registry entry")
    elif not part.entry.guard:
        yield failed(f"{part.entry.id} is no guard model", part.id)
    elif guard.format != form_of(part.entry.id):
        yield failed(f"guard.format is {guard.format}, {part.entry.id} answers as {form_of(part.entry.id)}", part.id)
    else:
        yield passed(f"{part.entry.id} answers as {guard.format}", part.id)


@GUARD.rule(
    "model-revision",
    "The guard model is pinned to a commit",
    basis="policy: evidence is worth something only for the weights it was made with",
    remedy="set guard.revision to the 40 hex digits of the guard's commit",
)
def model_revision(view: DeploymentView) -> Iterator[Outcome]:
    if view.guard.kind != "model":
        return
    revision = view.guard.revision or ""
    yield passed(f"at {revision}") if COMMIT.fullmatch(revision) else failed("guard.revision is empty")


@GUARD.rule(
    "verdict-length",
    "The guard may write its whole verdict",
    basis="NeMo Guardrails' default of 3 tokens cuts a JSON verdict",
    remedy="set guard.max_tokens to 50 or more; 400 or more for a guard that reasons",
)
def verdict_length(view: DeploymentView) -> Iterator[Outcome]:
    guard = view.guard
    if guard.kind != "model":
        return
    least = 400 if guard.format in REASONING_FORMATS else 50
    told = f"guard.max_tokens is {guard.max_tokens}; needed are {least}"
    yield passed(told) if guard.max_tokens >= least else failed(told)


@GUARD.rule(
    "strictness",
    "A doubtful verdict blocks",
    basis="https://github.com/QwenLM/Qwen3Guard: Controversial is a verdict of its own",
    remedy="set guard.controversial to block, or waive this rule with the reason for your use",
)
def strictness(view: DeploymentView) -> Iterator[Outcome]:
    if view.guard.kind == "model" and view.guard.format == "qwen3guard":
        told = f"guard.controversial is {view.guard.controversial}"
        yield passed(told) if view.guard.controversial == "block" else failed(told)


@GUARD.rule(
    "timeout",
    "A verdict has a deadline",
    basis="policy: a guard that hangs must become 503 guard_unavailable while the client still waits",
    remedy=f"set guard.timeout_s to {LONGEST_VERDICT_S:.0f} or less",
)
def timeout(view: DeploymentView) -> Iterator[Outcome]:
    if view.guard.kind in ("model", "nemo"):
        told = f"guard.timeout_s is {view.guard.timeout_s:g}"
        yield passed(told) if 0 < view.guard.timeout_s <= LONGEST_VERDICT_S else failed(told)


@GUARD.rule(
    "transport",
    "Prompts reach the guard over a protected path",
    basis="policy: the guard's endpoint sees every prompt and answer",
    remedy="use https, or a guard on this host or inside the cluster (a name without a dot, or ending in .svc or "
    ".cluster.local)",
)
def transport(view: DeploymentView) -> Iterator[Outcome]:
    guard = view.guard
    if guard.kind not in ("model", "nemo"):
        return
    url = urlsplit(guard.url or "")
    host = url.hostname or ""
    if url.scheme == "https":
        yield passed("https")
    elif url.scheme == "http" and _inside(host):
        yield passed(f"http to {host}, inside the host or cluster")
    else:
        yield failed(f"guard.url is {url.scheme or 'no URL'}{'://' + host if host else ''}")


@GUARD.rule(
    "overrides",
    "No engine argument replaces a part of the checkpoint or reaches into answers",
    basis=POLICY,
    remedy="remove the argument; or waive this rule and name the guard that stands in for what was replaced",
)
def no_overrides(view: DeploymentView) -> Iterator[Outcome]:
    found = overrides(view.engine.args)
    basis = _guardrail_clause(view)
    yield failed(", ".join(found), basis=basis) if found else passed("none set", basis=basis)


@GUARD.rule(
    "request-fields",
    "A request cannot bring its own template or reach the sampler",
    basis=POLICY,
    remedy="keep chat_template and vllm_xargs in access.refused_fields",
)
def request_fields(view: DeploymentView) -> Iterator[Outcome]:
    open_fields = sorted(ENGINE_FIELDS - view.exposure.refused_fields)
    told = f"requests may set {', '.join(open_fields)}"
    yield failed(told) if open_fields else passed("refused in requests")


@GUARD.rule(
    "control-words",
    "Words that switch the model's reasoning are made harmless in users' text",
    basis=CARD,
    remedy="keep /think, /no_think and </think> in reasoning.control_words",
)
def control_words(view: DeploymentView) -> Iterator[Outcome]:
    if not (view.engine.reasoning and view.engine.chat):
        return
    lost = sorted(CONTROL_WORDS - view.guard.control_words)
    yield failed(f"users may write {', '.join(lost)}") if lost else passed("made harmless")


@GUARD.rule(
    "chat-template",
    "The chat template is the one of the pinned revision",
    basis=POLICY,
    remedy="restore the file; or record the hash you trust in license.pinned_files",
)
def chat_template(view: DeploymentView) -> Iterator[Outcome]:
    yield from _same_files(view, CHAT_TEMPLATE)


@GUARD.rule(
    "tokenizer",
    "The tokenizer is the one of the pinned revision",
    basis=POLICY,
    remedy="restore the files; or record the hashes you trust in license.pinned_files",
)
def tokenizer(view: DeploymentView) -> Iterator[Outcome]:
    yield from _same_files(view, TOKENIZER)


@GUARD.rule(
    "generation-config",
    "The generation config is the one of the pinned revision",
    basis=POLICY,
    remedy="restore the file; or record the hash you trust in license.pinned_files",
)
def generation_config(view: DeploymentView) -> Iterator[Outcome]:
    yield from _same_files(view, GENERATION)


@GUARD.rule(
    "pinned-files",
    "Every other file with a recorded hash is unchanged",
    basis=POLICY,
    remedy="restore the file; or record the hash you trust in license.pinned_files",
)
def pinned_files(view: DeploymentView) -> Iterator[Outcome]:
    others = frozenset(view.files.pinned) - CHAT_TEMPLATE - TOKENIZER - GENERATION
    if others and view.files.present is not None:
        yield from _same_files(view, others)


@GUARD.rule(
    "remote-code",
    "Python that comes with the weights runs only where the model needs it, and unchanged",
    basis=POLICY,
    remedy="set engine.trust_remote_code to false; where the model needs it pin the revision and the files",
)
def remote_code(view: DeploymentView) -> Iterator[Outcome]:
    if not view.engine.args.get("trust_remote_code"):
        yield passed("engine.trust_remote_code is false")
    elif not view.engine.needs_remote_code:
        yield failed("engine.trust_remote_code is true, and this model needs no code of its own")
    else:
        names = frozenset(name for name in view.files.present or {} if name.endswith(".py"))
        yield from _same_files(view, names)


def behaviour_files(present: Mapping[str, str]) -> dict[str, str]:
    """Of the files in a model's folder, those whose hashes the rules here compare."""
    watched = CHAT_TEMPLATE | TOKENIZER | GENERATION
    return {name: digest for name, digest in present.items() if name in watched or name.endswith(".py")}


def form_of(guard: str) -> str | None:
    """The form a registry's guard model answers in, as `guard.format` names it."""
    forms = {
        "qwen3guard": "qwen3guard",
        "granite-guardian": "granite_guardian",
        "llama-guard": "llama_guard",
        "llama-3.1-nemotron-safety-guard": "nemotron_safety_guard",
        "nemotron-content-safety-reasoning": "nemotron_reasoning",
        "nemotron-3": "nemotron_content_safety",
    }
    return next((form for prefix, form in forms.items() if guard.startswith(prefix)), None)


def _same_files(view: DeploymentView, names: frozenset[str]) -> Iterator[Outcome]:
    basis = _guardrail_clause(view)
    present, pinned = view.files.present, view.files.pinned
    if present is None:
        # Without the files here only their address can speak for them: a commit names its content.
        if COMMIT.fullmatch(view.model.revision or "") and view.declared.weights != "mounted":
            yield passed(f"fetched at commit {(view.model.revision or '')[:12]}, which names its content", basis=basis)
        else:
            yield unknown("the model's folder is not here and no commit names its content", basis=basis)
        return
    for name in sorted(names & (present.keys() | pinned.keys())):
        want, have = pinned.get(name), present.get(name)
        if want is None:
            yield unknown(f"sha256 {(have or '')[:12]} is here; which one is right is not recorded", name, basis)
        elif have is None:
            yield failed("missing from the model's folder", name, basis)
        elif have != want:
            yield failed(f"sha256 {have[:12]}, pinned is {want[:12]}", name, basis)
        else:
            yield passed(f"sha256 {have[:12]}", name, basis)


def _guardrail_clause(view: DeploymentView) -> str | None:
    clauses = [clause(license, duty) for part, license, duty in duties(view, "guardrail") if part.role == "model"]
    return "; ".join(clauses) or None


def _inside(host: str) -> bool:
    if host == "localhost" or host.endswith((".svc", ".cluster.local")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return bool(host) and "." not in host
