"""What lies open: secrets in plain values, routes without a key, moving images and branches."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hybridserve.compliance.findings import Outcome, failed, passed
from hybridserve.compliance.rules.base import RuleBook
from hybridserve.compliance.rules.license import COMMIT
from hybridserve.compliance.view import DeploymentView

EXPOSURE = RuleBook("exposure")

IMAGE_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
SECRET_NAME = re.compile(r"(?i)(^|[._-])(api_?keys?|token|secret|passw(or)?d|credentials?)$")
SECRET_VALUE = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|xox[abp]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s:@]+@"
)
# Routes that answer with no text of the model, or count what they are given: safe without the guard.
HARMLESS_ROUTES = frozenset({"POST /tokenize", "POST /detokenize", "GET /version", "GET /tokenizer_info"})


@EXPOSURE.rule(
    "secrets",
    "No secret stands in the configuration",
    basis="policy: configuration is printed, stored and reviewed",
    remedy="name a file instead (access.keys_file, guard.api_key_file) and mount it from a secret",
)
def secrets(view: DeploymentView) -> Iterator[Outcome]:
    found = sorted(path for path, value in _leaves(view.exposure.values) if _secret(path, value))
    for path in found:
        yield failed("looks like a secret in plain text", path)
    if not found:
        yield passed("none found")


@EXPOSURE.rule(
    "keys",
    "Requests need a key",
    basis="policy: deny by default",
    remedy="make keys with `hybridserve key new`, set access.keys_file and leave access.anonymous_scopes empty",
)
def keys(view: DeploymentView) -> Iterator[Outcome]:
    exposure = view.exposure
    open_scopes = sorted(exposure.anonymous & {"inference", "admin"})
    if open_scopes:
        yield failed(f"without a key: {', '.join(open_scopes)}")
    elif not exposure.keys:
        yield failed("access.keys_file is empty")
    else:
        yield passed("a key file is set")


@EXPOSURE.rule(
    "metrics",
    "Metrics are not public",
    basis="policy: metrics tell load, models and errors",
    remedy="leave metrics out of access.anonymous_scopes and give the scraper a key, or bind to loopback",
)
def metrics(view: DeploymentView) -> Iterator[Outcome]:
    public = "metrics" in view.exposure.anonymous and not _loopback(view.exposure.host)
    yield failed(f"metrics without a key on {view.exposure.host}") if public else passed("not public")


@EXPOSURE.rule(
    "ports",
    "No port without a key is open to the network",
    basis="policy: a replica's metrics port asks nobody for a key, so that a scraper finds it",
    remedy="bind telemetry.metrics_host to loopback; where the scraper is elsewhere let a NetworkPolicy (the chart's "
    "does) or a firewall admit it alone, and waive this rule by naming that",
    severity="warning",
)
def ports(view: DeploymentView) -> Iterator[Outcome]:
    host = view.exposure.metrics_port_host
    if host is not None:
        told = f"metrics ports of replicas on {host}"
        yield passed(told) if _loopback(host) else failed(told)


@EXPOSURE.rule(
    "routes",
    "No route reaches the model past the guard",
    basis="vLLM's /invocations and like routes answer the same prompts as the guarded ones",
    remedy="take the route out of access.open_routes; admin keys still reach it",
)
def routes(view: DeploymentView) -> Iterator[Outcome]:
    for route in view.exposure.open_routes:
        if " ".join(route.upper().split()[:1] + route.split()[1:]) in HARMLESS_ROUTES:
            yield passed("gives no text of the model", route)
        else:
            yield failed("opened to inference keys, and not known to be harmless", route)


@EXPOSURE.rule(
    "model-revision",
    "The model is pinned to a commit",
    basis="a moving branch changes weights, template and license between two starts",
    remedy="set model.revision to the 40 hex digits of a commit",
)
def model_revision(view: DeploymentView) -> Iterator[Outcome]:
    weights = view.declared.weights
    if weights == "mounted" or (weights == "baked" and view.model.repository is None):
        return
    revision = view.model.revision or ""
    yield passed(f"at {revision}") if COMMIT.fullmatch(revision) else failed(f"model.revision is {revision or 'empty'}")


@EXPOSURE.rule(
    "image",
    "The image is pinned by digest",
    basis="a tag can be pushed again",
    remedy="set license.image to NAME@sha256:DIGEST",
)
def image(view: DeploymentView) -> Iterator[Outcome]:
    name = view.declared.image
    if name is None and view.declared.weights == "baked":
        yield failed("weights are baked into an image, and license.image names none")
    elif name is not None:
        yield passed(name) if IMAGE_DIGEST.fullmatch(name) else failed(f"{name} has no digest")


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}.")
        elif isinstance(value, list | tuple):
            yield from _leaves({str(index): item for index, item in enumerate(value)}, f"{path}.")
        else:
            yield path, value


def _secret(path: str, value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    # A name that ends like a secret holds one, unless it names a file (api_key_file) or a variable ($NAME).
    return bool(SECRET_VALUE.search(value) or (SECRET_NAME.search(path) and not value.startswith("$")))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
