"""JSON over HTTP to a guard, with every failure told as a GuardError.

aiohttp, which Ray and vLLM need anyway, and not httpx: with 64 verdicts at once, of a guard that takes 50 ms, httpx's
pool took 3 ms of processor time for each and gave them back after 700 ms; this takes 0.2 ms, and 60.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hybridserve.errors import ConfigError
from hybridserve.guards.base import GuardError

try:
    import aiohttp
except ModuleNotFoundError as missing:
    raise ConfigError("guard.kind", f"{missing.name} is not installed", "make install LOCK=cpu, or gpu") from None

# A server of uvicorn's ends an idle connection after 5 s; one that is given up before is never asked on by mistake.
_IDLE_S = 4.0


class GuardHTTP:
    """Connections to one guard, as many as there are verdicts at once. Redirects are not followed: a guard does not
    move."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> dict[str, Any]:
        return await self._call("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("POST", path, body)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        if self._session is None:
            # Made on first use: inside the server's event loop, and after the middleware was pickled for a replica.
            # No limit but `access.max_in_flight`: verdicts that wait for a connection would become errors.
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.request(method, self._url + path, json=body, allow_redirects=False) as response:
                status, said = response.status, await response.read()
        except TimeoutError:
            raise GuardError("the guard did not answer in time", transient=True) from None
        except aiohttp.ClientError as error:
            raise GuardError(f"the guard cannot be reached: {type(error).__name__}", transient=True) from None
        if status != 200:
            raise GuardError(f"the guard answered {status}", transient=status >= 500 or status == 429)
        try:
            answer = json.loads(said)
        except ValueError:
            raise GuardError("the guard's answer is not JSON") from None
        if not isinstance(answer, dict):
            raise GuardError("the guard's answer is not a JSON object")
        return answer
