"""Probe for thinking budgets: does the engine enforce `thinking_token_budget`, or only accept the field?

vLLM 0.29 enforces it in both model runners, with and without speculative decoding, for every model that has a reasoning
parser, and rejects the field without one. Earlier releases accepted and ignored it in some of these cases
(https://github.com/vllm-project/vllm/issues/54906), so the engine's own count decides.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hybridserve.gateway.errors import APIError
from hybridserve.gateway.internal_request import request_app
from hybridserve.gateway.reasoning.controls import ReasoningOptions, apply_switch
from hybridserve.gateway.types import App, Scope
from hybridserve.settings.reasoning import ReasoningSection

log = logging.getLogger("hybridserve.access")

_QUESTION = "Think it over step by step: what is 17 plus 25, and why?"
_PROBE_BUDGET = 2
# Tokens that an enforced budget may be exceeded by: the end marker, and what closes the reasoning.
_SLACK = 4
_PROBE_TOKENS = 96


class ThinkingBudgetProbe:
    """Tests the engine once and remembers the result in `enforced`; None until it is known."""

    def __init__(self, settings: ReasoningSection) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self.enforced: bool | None = None if settings.budget == "auto" else settings.budget == "engine"

    async def require(self, app: App, scope: Scope, model: object = None) -> None:
        """Return if the engine enforces budgets. The first call, normally made at startup, sends it one short prompt.

        Args:
            scope: scope of any request, used as a template for the probe's request.
            model: model name for the probe's request.

        Raises:
            APIError: 400, budgets are not enforced here; 503, the engine could not answer the probe (the next call
                probes again).
        """
        if self.enforced is None:
            async with self._lock:
                if self.enforced is None:
                    self.enforced = await self._probe(app, scope, model)
                    level = logging.DEBUG if self.enforced else logging.INFO
                    log.log(level, "budget_probed", extra={"enforced": self.enforced})
        if self.enforced is None:
            message = "The engine is not ready to enforce thinking budgets."
            raise APIError(503, "engine_unavailable", message, retry_after_s=1.0)
        if not self.enforced:
            message = "Thinking budgets are not supported by this server; use reasoning on or off."
            raise APIError(400, "reasoning_budget_unsupported", message, param="reasoning")

    async def _probe(self, app: App, scope: Scope, model: object) -> bool | None:
        """Whether a budget was enforced; None if the engine failed."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": _QUESTION}],
            "max_tokens": _PROBE_TOKENS,
            "temperature": 0.0,
            "thinking_token_budget": _PROBE_BUDGET,
        }
        if isinstance(model, str):
            body["model"] = model
        if self._settings.switch != "none":
            apply_switch(body, ReasoningOptions(on=True), self._settings)
        response = await request_app(app, scope, "POST", "/v1/chat/completions", body)
        if response.status != 200:
            return None if response.status >= 500 else False
        answer: Any = response.json()
        try:
            # Without enforcement the reasoning would use all tokens and leave no content.
            content = answer["choices"][0]["message"]["content"]
            tokens = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
        except (KeyError, IndexError, TypeError):
            return False
        return bool(content) and isinstance(tokens, int) and tokens <= _PROBE_BUDGET + _SLACK
