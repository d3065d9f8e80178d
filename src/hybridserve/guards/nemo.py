"""NeMo Guardrails: the checks endpoint of its microservice runs rails without generating an answer."""

from __future__ import annotations

from collections.abc import Sequence

from hybridserve.guards.base import GuardError, GuardVerdict, Message, Stage
from hybridserve.guards.conversation import quoted
from hybridserve.guards.http_client import GuardHTTP


class NemoGuard:
    """Checks with ``POST /v1/guardrail/checks``. Only ``success``, if a rail ran, and ``blocked`` are verdicts.

    Args:
        url: base of the service, such as ``http://guardrails:7331``.
        config_id: guardrails configuration.
        model: name of the main model in that configuration.
    """

    is_local = False

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
        turns = [{"role": message["role"], "content": quoted(message["content"])} for message in messages]
        body = {"model": self._model, "messages": turns, "guardrails": {"config_id": self._config_id}}
        answer = await self._http.post("/v1/guardrail/checks", body)
        status, rails = answer.get("status"), answer.get("rails_status")
        # A success without rails results from a wrong config_id or from rails that were not loaded.
        if not isinstance(rails, dict) or not rails:
            raise GuardError("no rail ran")
        states = {name: rail.get("status") if isinstance(rail, dict) else None for name, rail in rails.items()}
        if status not in ("success", "blocked") or not set(states.values()) <= {"success", "blocked"}:
            raise GuardError("the status of the check or of a rail is neither success nor blocked")
        blocked = tuple(name for name, state in states.items() if state == "blocked")
        return GuardVerdict("block" if blocked or status == "blocked" else "allow", self.name, blocked)

    async def probe(self) -> None:
        await self._http.get("/v1/health/ready")

    async def close(self) -> None:
        await self._http.close()
