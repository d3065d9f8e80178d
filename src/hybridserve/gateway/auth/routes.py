"""Which routes are open, and to whom. What is not listed needs the admin scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybridserve.errors import ConfigError
from hybridserve.gateway.requests.api_formats import CHAT, COMPLETIONS, RESPONSES, APIFormat
from hybridserve.gateway.types import Scope as AsgiScope
from hybridserve.settings.access import Scope

Kind = Literal["generate", "own", "pass"]


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `scope` None means open to everybody; `dialect` is how a generating route speaks."""

    name: str
    scope: Scope | None
    kind: Kind = "pass"
    dialect: APIFormat | None = None


_ADMIN = Route("other", "admin")
_TABLE: dict[tuple[str, str], Route] = {
    ("POST", "/v1/chat/completions"): Route("chat", "inference", "generate", CHAT),
    ("POST", "/v1/completions"): Route("completions", "inference", "generate", COMPLETIONS),
    ("POST", "/v1/responses"): Route("responses", "inference", "generate", RESPONSES),
    ("GET", "/v1/models"): Route("models", "inference"),
    ("GET", "/health"): Route("health", None),
    ("GET", "/ready"): Route("ready", None, "own"),
    ("GET", "/about"): Route("about", None, "own"),
    ("GET", "/licenses"): Route("licenses", None, "own"),
    ("GET", "/compliance"): Route("compliance", "inference", "own"),
    ("GET", "/plan"): Route("plan", "inference", "own"),
    ("GET", "/metrics"): Route("metrics", "metrics"),
    ("POST", "/admin/drain"): Route("drain", "admin", "own"),
    ("DELETE", "/admin/drain"): Route("drain", "admin", "own"),
}
_MODEL = Route("models", "inference")

# Further POST routes of vLLM that produce no text from the model; with a guard on, an admin key opens only these:
# /invocations, /v1/messages and their like answer with text that no guard would see.
SILENT_POSTS = frozenset(
    {
        "/tokenize",
        "/detokenize",
        "/v1/embeddings",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/sleep",
        "/wake_up",
        "/start_profile",
        "/stop_profile",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    }
)


class Routes:
    """The allow-list in force.

    Args:
        open_routes: "METHOD /path" entries that the inference scope may use as well.
        guarded: a guard is on, so that text may leave only through routes it can read.

    Raises:
        ConfigError: an entry is malformed, or would lead around the guard.
    """

    def __init__(self, open_routes: tuple[str, ...] = (), guarded: bool = False) -> None:
        self._table = dict(_TABLE)
        self._guarded = guarded
        for entry in open_routes:
            method, _, path = entry.partition(" ")
            if not path.startswith("/") or not method.isupper():
                raise ConfigError("access.open_routes", f"{entry!r} is no route", 'write "POST /tokenize"')
            if guarded and method != "GET" and path not in SILENT_POSTS:
                raise ConfigError("access.open_routes", f"{entry!r} leads around the guard", "remove it")
            self._table.setdefault((method, path), Route(path, "inference"))

    def find(self, method: str, path: str) -> Route | None:
        """The route, or None where nobody may go."""
        route = self._table.get((method, path))
        if route is not None:
            return route
        if method == "HEAD":
            return self.find("GET", path)
        if method == "GET" and path.startswith("/v1/models/") and ".." not in path:
            return _MODEL
        if self._guarded and method not in ("GET", "OPTIONS") and path not in SILENT_POSTS:
            return None
        return _ADMIN

    def known(self, path: str) -> bool:
        """Whether any method is open on this path: its CORS preflight may pass."""
        return any(path == known for _, known in self._table)


def route_path(scope: AsgiScope) -> str:
    """The path below the mount point (`root_path`), as Starlette's router sees it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/"):
        return path[len(root) :] or "/"
    return path
