"""Routes and the scope that each requires. A route that is not listed is 404 for everybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridserve.errors import ConfigError
from hybridserve.gateway.errors import ErrorFormat
from hybridserve.gateway.requests.api_formats import CHAT, COMPLETIONS, MESSAGES, RESPONSES, APIFormat
from hybridserve.gateway.types import Scope as ASGIScope
from hybridserve.settings.access import Scope

Kind = Literal["generate", "builtin", "forward"]


@dataclass(frozen=True, slots=True)
class Route:
    """One route: a generation API, one that the gateway answers itself, or one that is forwarded unchanged.

    Attributes:
        scope: required scope; None for a public route.
        format: the API of a generation route.
        errors: whose format error responses have.
    """

    name: str
    scope: Scope | None
    kind: Kind = "forward"
    format: APIFormat | None = None
    errors: ErrorFormat = "openai"


OTHER = Route("other", "admin")
_MODEL = Route("models", "inference")
_TABLE: dict[tuple[str, str], Route] = {
    ("POST", "/v1/chat/completions"): Route("chat", "inference", "generate", CHAT),
    ("POST", "/v1/completions"): Route("completions", "inference", "generate", COMPLETIONS),
    ("POST", "/v1/responses"): Route("responses", "inference", "generate", RESPONSES),
    ("POST", "/v1/messages"): Route("messages", "inference", "generate", MESSAGES, "anthropic"),
    ("POST", "/v1/messages/count_tokens"): Route("count_tokens", "inference", errors="anthropic"),
    ("GET", "/v1/models"): _MODEL,
    ("GET", "/health"): Route("health", None),
    ("GET", "/ready"): Route("ready", None, "builtin"),
    ("GET", "/about"): Route("about", None, "builtin"),
    ("GET", "/licenses"): Route("licenses", None, "builtin"),
    ("GET", "/compliance"): Route("compliance", "inference", "builtin"),
    ("GET", "/plan"): Route("plan", "inference", "builtin"),
    ("GET", "/metrics"): Route("metrics", "metrics"),
    ("POST", "/admin/drain"): Route("drain", "admin", "builtin"),
    ("DELETE", "/admin/drain"): Route("drain", "admin", "builtin"),
}

GENERATING_ROUTES = frozenset(route.name for route in _TABLE.values() if route.kind == "generate")
"""Names, as in the log and the metrics, of the routes that generate text."""

# Further routes of vLLM 0.29 for the admin scope, which return no generated text.
WITHOUT_GENERATED_TEXT = frozenset({
    "/tokenize", "/detokenize", "/version", "/load", "/ping", "/server_info", "/is_sleeping", "/is_paused",
    "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/sleep", "/wake_up", "/pause", "/resume",
    "/abort_requests", "/start_profile", "/stop_profile", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
    "/scale_elastic_ep", "/is_scaling_elastic_ep", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json",
    "/weight_info", "/get_world_size",
})  # fmt: skip
# Those that return generated text which a guard would not read, or that exchange the weights or run other code.
UNGUARDED_ONLY = frozenset({
    "/invocations", "/inference/v1/generate", "/generative_scoring", "/v1/chat/completions/batch",
    "/v1/chat/completions/render", "/v1/chat/completions/derender", "/v1/completions/render",
    "/v1/completions/derender", "/v1/messages/render", "/collective_rpc", "/init_weight_transfer_engine",
    "/start_weight_update", "/start_draft_weight_update", "/update_weights", "/update_weight_version",
    "/finish_weight_update",
})  # fmt: skip
# `GET /v1/responses/ID` and its cancellation: the stored response was not judged, or was blocked.
_STORED_RESPONSES = "/v1/responses/"


class Routes:
    """The routes of a deployment.

    Args:
        open_routes: "METHOD /path" entries that the inference scope may use as well.
        guarded: a guard is on, so that generated text may leave only through routes that it reads.

    Raises:
        ConfigError: an entry is malformed, or would bypass the guard.
    """

    def __init__(self, open_routes: tuple[str, ...] = (), guarded: bool = False) -> None:
        self._table = dict(_TABLE)
        self._guarded = guarded
        for entry in open_routes:
            method, _, path = entry.partition(" ")
            if not path.startswith("/") or not method.isupper():
                raise ConfigError("access.open_routes", f"{entry!r} is not a route", 'write "POST /tokenize"')
            if guarded and (_generates(path) or (method != "GET" and path not in WITHOUT_GENERATED_TEXT)):
                raise ConfigError("access.open_routes", f"{entry!r} would bypass the guard", "remove it")
            self._table.setdefault((method, path), Route(path, "inference"))

    def find(self, method: str, path: str) -> Route | None:
        """The route; None where this deployment does not serve it."""
        route = self._table.get((method, path))
        if route is not None:
            return route
        if method == "HEAD":
            return self.find("GET", path)
        if method == "GET" and path.startswith("/v1/models/") and ".." not in path:
            return _MODEL
        if path in WITHOUT_GENERATED_TEXT or (_generates(path) and not self._guarded):
            return OTHER
        return None

    def allows_preflight(self, path: str) -> bool:
        """Whether a listed route has this path, so that its CORS preflight is forwarded."""
        return any(path == listed for _, listed in self._table)


def route_path(scope: ASGIScope) -> str:
    """The path below the mount point (`root_path`), as Starlette's router sees it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/"):
        return path[len(root) :] or "/"
    return path


def _generates(path: str) -> bool:
    return path in UNGUARDED_ONLY or path.startswith(_STORED_RESPONSES)
