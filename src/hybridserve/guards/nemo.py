"""NeMo Guardrails: its microservice's checks endpoint runs rails without generating an answer."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from hybridserve.guards.base import GuardError, GuardVerdict, Message, Stage
from hybridserve.guards.http_client import GuardHTTP


class NemoGuard:
    """Asks ``POST /v1/guardrail/checks``; only ``success`` and ``blocked`` are verdicts, and success needs rails.

    Args:
        url: base of the service, such as ``http://guardrails:7331``.
        config_id: guardrails configuration.
        model: name of the main model in that configuration.
    """

    instant = False

    def __init__(
        self,
        *,
        url: str,
        config_id: str,
        model: str,
        api_key: str | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self.name = f"nemo:{config_id}"
        self._http = GuardHTTP(url, api_key, timeout_s)
        self._config_id = config_id
        self._model = model

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        start = perf_counter()
        answer = await self._http.post(
            "/v1/guardrail/checks",
            {"model": self._model, "messages": list(messages), "guardrails": {"config_id": self._config_id}},
        )
        status, rails = answer.get("status"), answer.get("rails_status")
        # A success of no rails at all is what a wrong config_id or an unloaded rail looks like.
        if not isinstance(rails, dict) or not rails:
            raise GuardError("no rail ran")
        states = {name: rail.get("status") if isinstance(rail, dict) else None for name, rail in rails.items()}
        if status not in ("success", "blocked") or not set(states.values()) <= {"success", "blocked"}:
            raise GuardError("the status of the check or of a rail is neither success nor blocked")
        blocked = tuple(name for name, state in states.items() if state == "blocked")
        stopped = bool(blocked) or status == "blocked"
        return GuardVerdict("block" if stopped else "allow", self.name, blocked, seconds=perf_counter() - start)

    async def probe(self) -> None:
        await self._http.get("/v1/health/ready")

    async def close(self) -> None:
        await self._http.close()
