"""JSON over HTTP to a guard, with every failure told as a GuardFault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from hybridserve.serving.guards.interface import GuardFault


class GuardHTTP:
    """A connection pool to one guard. Redirects are not followed: a guard does not move."""

    def __init__(
        self, url: str, api_key: str | None, timeout_s: float, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout_s
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def get(self, path: str) -> dict[str, Any]:
        return await self._call("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("POST", path, body)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        if self._client is None:
            # Made on first use: inside the server's event loop, and after the middleware was pickled for a replica.
            self._client = httpx.AsyncClient(
                headers=self._headers, timeout=self._timeout, transport=self._transport, trust_env=False
            )
        try:
            response = await self._client.request(method, self._url + path, json=body)
        except httpx.TimeoutException:
            raise GuardFault("the guard did not answer in time", transient=True) from None
        except httpx.HTTPError as error:
            raise GuardFault(f"the guard cannot be reached: {type(error).__name__}", transient=True) from None
        if response.status_code != 200:
            transient = response.status_code >= 500 or response.status_code == 429
            raise GuardFault(f"the guard answered {response.status_code}", transient=transient)
        try:
            answer = response.json()
        except ValueError:
            raise GuardFault("the guard's answer is not JSON") from None
        if not isinstance(answer, dict):
            raise GuardFault("the guard's answer is not a JSON object")
        return answer
