"""Exposure: secrets in plain settings, routes and ports without a key, images and branches that can move."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hybridserve.compliance.findings import Outcome, failed, passed, require
from hybridserve.compliance.placeholders import is_placeholder_hash
from hybridserve.compliance.rules.base import RuleFamily, is_commit, is_loopback
from hybridserve.compliance.view import DeploymentView

EXPOSURE = RuleFamily("exposure")

IMAGE_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
SECRET_NAME = re.compile(
    r"(?i)(^|[._-])(api_?keys?|access_?key|private_?key|token|secret|passw(or)?d|credentials?|authorization)$"
)
SECRET_VALUE = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|hs-[A-Za-z0-9_-]{40,}|glpat-[A-Za-z0-9_-]{20,}|[rs]k_live_[A-Za-z0-9]{16,}|AIza[A-Za-z0-9_-]{35}"
    r"|xox[abp]-[A-Za-z0-9-]{10,}|A[KS]IA[0-9A-Z]{16}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]*:[^/\s@]+@"
    r"|://[^/\s:@$]{16,}@|(?i:\b(?:bearer|basic) )[A-Za-z0-9._~+/-]{12,}"
    r"|(?i:[?&][a-z_-]*(?:key|token|secret|passw(?:or)?d|signature|sig)=)[^&$\s]"
)
# Engine arguments by which prompts (cache events have their tokens) or files of the machine become readable.
REVEALING = ("enable_log_requests", "enable_log_outputs", "allowed_local_media_path", "kv_events_config")
# Routes that return no text of the model: safe without the guard.
HARMLESS_ROUTES = frozenset({"POST /tokenize", "POST /detokenize", "GET /version", "GET /tokenizer_info"})


@EXPOSURE.rule(
    "secrets",
    "The configuration contains no secret",
    basis="policy: configuration is printed, stored and reviewed",
    remedy="name a file instead (access.keys_file, guard.api_key_file) and mount it from a secret",
)
def secrets(view: DeploymentView) -> list[Outcome]:
    found = sorted(path for path, value in _leaves(view.settings.model_dump(mode="json")) if _looks_secret(path, value))
    return [failed("looks like a secret in plain text", path) for path in found] or [passed("none found")]


@EXPOSURE.rule(
    "keys",
    "Requests need an API key",
    basis="policy: deny by default",
    remedy="make keys with `hybridserve key new`, set access.keys_file and leave access.anonymous_scopes empty",
)
def keys(view: DeploymentView) -> Outcome:
    open_scopes = sorted(view.anonymous & {"inference", "admin"})
    if open_scopes:
        return failed(f"allowed without a key: {', '.join(open_scopes)}")
    return passed("a key file is set") if view.settings.access.keys_file else failed("access.keys_file is empty")


@EXPOSURE.rule(
    "metrics",
    "Metrics are not public",
    basis="policy: metrics reveal load, models and errors",
    remedy="leave metrics out of access.anonymous_scopes and give the scraper a key, or bind to loopback",
)
def metrics(view: DeploymentView) -> Outcome:
    public = "metrics" in view.anonymous and not is_loopback(view.settings.server.host)
    return failed(f"metrics without a key on {view.settings.server.host}") if public else passed("not public")


@EXPOSURE.rule(
    "ports",
    "No port that needs no key is reachable from the network",
    basis="policy: the metrics port of a replica needs no key, so that a scraper can discover it",
    remedy="bind telemetry.metrics_host to loopback; if the scraper runs elsewhere, admit only it by a NetworkPolicy "
    "(the chart has one) or a firewall, and waive this rule with that as the reason",
    severity="warning",
)
def ports(view: DeploymentView) -> Outcome | None:
    telemetry = view.settings.telemetry
    if not telemetry.metrics_port:
        return None
    return require(is_loopback(telemetry.metrics_host), f"metrics ports of replicas on {telemetry.metrics_host}")


@EXPOSURE.rule(
    "engine-arguments",
    "No engine argument reveals prompts, answers or files",
    basis="logs are stored and read by people who may not read prompts; a path of media opens files to requests",
    remedy=f"remove {', '.join(REVEALING)} from engine.extra_args",
)
def engine_arguments(view: DeploymentView) -> Outcome:
    found = [name for name in REVEALING if view.engine.args.get(name)]
    return failed(f"set: {', '.join(found)}") if found else passed("none set")


@EXPOSURE.rule(
    "routes",
    "No open route bypasses the guard",
    basis="vLLM's /invocations and similar routes answer the same prompts as the guarded routes",
    remedy="remove the route from access.open_routes; admin keys can still use it",
)
def routes(view: DeploymentView) -> Iterator[Outcome]:
    for route in view.settings.access.open_routes:
        if " ".join(route.upper().split()[:1] + route.split()[1:]) in HARMLESS_ROUTES:
            yield passed("returns no text of the model", route)
        else:
            yield failed("open to inference keys, and not known to be harmless", route)


@EXPOSURE.rule(
    "model-revision",
    "The model is pinned to a commit",
    basis="a branch can change weights, template and license between two starts",
    remedy="set model.revision to the 40 hex digits of a commit",
)
def model_revision(view: DeploymentView) -> Outcome | None:
    weights = view.license.weights
    if weights == "mounted" or (weights == "baked" and view.model.repository is None):
        return None
    revision = view.model.revision or ""
    return passed(f"at {revision}") if is_commit(revision) else failed(f"model.revision is {revision or 'empty'}")


@EXPOSURE.rule(
    "image",
    "The image is pinned by digest",
    basis="a tag can be pushed again",
    remedy="set license.image to NAME@sha256:DIGEST",
)
def image(view: DeploymentView) -> Outcome | None:
    name = view.license.image
    if name is None:
        missing = view.license.weights == "baked"
        return failed("weights are baked into an image, but license.image is empty") if missing else None
    if not IMAGE_DIGEST.fullmatch(name):
        return failed(f"{name} has no digest")
    if is_placeholder_hash(name.rpartition(":")[2]):
        return failed(f"{name}: the digest is a placeholder, which no image has")
    return passed(name)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, list | tuple):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _looks_secret(path: str, value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    path = re.sub(r"(\.\d+)+$", "", path)  # an item of a list has the name of its list
    # The value of a name such as api_key is a secret, unless it is a variable ($NAME); api_key_file does not match.
    return bool(SECRET_VALUE.search(value) or (SECRET_NAME.search(path) and not value.startswith("$")))
