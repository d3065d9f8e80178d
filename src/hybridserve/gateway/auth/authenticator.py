"""Checks the API key of a request, and that its scopes include the route."""

from __future__ import annotations

from pathlib import Path

from hybridserve.errors import ConfigError
from hybridserve.gateway.auth.api_keys import APIKeyStore, Key, extract_api_key
from hybridserve.gateway.auth.routes import Route
from hybridserve.gateway.errors import APIError
from hybridserve.gateway.internal_request import INTERNAL_TOKEN
from hybridserve.gateway.types import Scope
from hybridserve.settings import Settings

_INTERNAL = Key("internal", frozenset({"inference"}), internal=True)


class Authenticator:
    """Finds the key of a request.

    `internal_token` authenticates the service's own requests (`internal_request.internal_scope`).

    Raises:
        ConfigError: the key file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        access = settings.access
        self.internal_token = object()
        self._keys = APIKeyStore(Path(access.keys_file)) if access.keys_file else None
        scopes = frozenset(access.scopes_without_key(settings.server.profile))
        self._anonymous = Key("anonymous", scopes, anonymous=True)

    def keys_problem(self) -> ConfigError | None:
        """What is wrong with the key file now; None if nothing is."""
        return self._keys.refresh() if self._keys is not None else None

    def any_limits(self) -> bool:
        """Whether a key of the file has limits of its own."""
        return self._keys is not None and any(key.rpm or key.tpm or key.streams for key in self._keys)

    def authenticate(self, route: Route, scope: Scope) -> Key:
        """The key of a request.

        Raises:
            APIError: 401 without a valid key, 403 if its scopes do not include the route.
        """
        if scope.get(INTERNAL_TOKEN) is self.internal_token:
            return _INTERNAL
        key = self._anonymous
        secret = extract_api_key(scope["headers"])
        if secret is not None and self._keys is not None:
            found = self._keys.find(secret)
            if found is None:
                raise APIError(401, "invalid_api_key", "The API key is unknown or has expired.")
            key = found
        if route.scope is None or route.scope in key.scopes:
            return key
        if key is self._anonymous and self._keys is not None:
            raise APIError(401, "missing_api_key", "No API key was sent. Use the header Authorization: Bearer KEY.")
        raise APIError(403, "not_allowed", "The API key lacks the scope required for this route.", reason="scope")
