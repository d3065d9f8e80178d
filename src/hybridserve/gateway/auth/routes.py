"""Routes and the scope that each requires. A route that is not listed requires the admin scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridserve.errors import ConfigError
from hybridserve.gateway.requests.api_formats import CHAT, COMPLETIONS, RESPONSES, APIFormat
from hybridserve.gateway.types import Scope as ASGIScope
from hybridserve.settings.access import Scope

Kind = Literal["generate", "builtin", "forward"]


@dataclass(frozen=True, slots=True)
class Route:
    """One route: a generation API, one that the gateway answers itself, or one that is forwarded unchanged.

    Attributes:
        scope: required scope; None for a public route.
        format: the API of a generation route.
    """

    name: str
    scope: Scope | None
    kind: Kind = "forward"
    format: APIFormat | None = None


UNLISTED = Route("other", "admin")
_MODEL = Route("models", "inference")
_TABLE: dict[tuple[str, str], Route] = {
    ("POST", "/v1/chat/completions"): Route("chat", "inference", "generate", CHAT),
    ("POST", "/v1/completions"): Route("completions", "inference", "generate", COMPLETIONS),
    ("POST", "/v1/responses"): Route("responses", "inference", "generate", RESPONSES),
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

# Further POST routes of vLLM that return no generated text. With a guard, an admin key opens only these:
# /invocations, /v1/messages and others return text that the guard would not see.
WITHOUT_GENERATED_TEXT = frozenset({
    "/tokenize", "/detokenize", "/v1/embeddings", "/reset_prefix_cache", "/reset_mm_cache", "/sleep", "/wake_up",
    "/start_profile", "/stop_profile", "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
})  # fmt: skip


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
            if guarded and method != "GET" and path not in WITHOUT_GENERATED_TEXT:
                raise ConfigError("access.open_routes", f"{entry!r} would bypass the guard", "remove it")
            self._table.setdefault((method, path), Route(path, "inference"))

    def find(self, method: str, path: str) -> Route | None:
        """The route; None where no scope gives access."""
        route = self._table.get((method, path))
        if route is not None:
            return route
        if method == "HEAD":
            return self.find("GET", path)
        if method == "GET" and path.startswith("/v1/models/") and ".." not in path:
            return _MODEL
        if self._guarded and method not in ("GET", "OPTIONS") and path not in WITHOUT_GENERATED_TEXT:
            return None
        return UNLISTED

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
