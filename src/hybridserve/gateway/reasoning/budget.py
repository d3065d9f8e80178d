"""Who holds a thinking budget. An engine that takes the field is not one that keeps to it: it is asked, and counted.

vLLM's `thinking_token_budget` needs a reasoning parser, and with some model runners and speculative decoding it was
accepted and ignored.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from hybridserve.gateway.internal_request import InternalResponse, request_app
from hybridserve.gateway.reasoning.controls import ReasoningOptions, apply_switch
from hybridserve.gateway.types import App, Scope
from hybridserve.settings.reasoning import ReasoningSection

log = logging.getLogger("hybridserve.access")

Holder = Literal["engine", "two_call", "off"]

_QUESTION = "Think it over step by step: what is 17 plus 25, and why?"
# The budget of the probe; and how many tokens a kept budget may be over, for the words that close the reasoning.
_PROBE_BUDGET = 2
_SLACK = 4
_PROBE_TOKENS = 96


class ThinkingBudgetProbe:
    """Finds out once who holds budgets, and remembers."""

    def __init__(self, settings: ReasoningSection) -> None:
        self._settings = settings
        self._holder: Holder | None = None if settings.budget == "auto" else settings.budget
        self._lock = asyncio.Lock()

    @property
    def holder(self) -> Holder | None:
        """None while it is not known."""
        return self._holder

    async def find_holder(self, app: App, scope: Scope, model: object = None) -> Holder:
        """The holder; the first call, the service's own at its start, probes the engine with two short questions.

        Args:
            scope: any request's, as a pattern for the probe's own.
            model: name of the model to ask for.
        """
        if self._holder is None:
            async with self._lock:
                if self._holder is None:
                    self._holder = await self._probe(app, scope, model)
                    log.info("event=budget_probed holder=%s", self._holder or "unknown")
        # An engine that could not answer is asked again; until then two calls, which need no belief.
        return self._holder or "two_call"

    async def _probe(self, app: App, scope: Scope, model: object) -> Holder | None:
        """None: the engine failed, which says nothing about budgets."""
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": _QUESTION}],
            "max_tokens": _PROBE_TOKENS,
            "temperature": 0.0,
        }
        if isinstance(model, str):
            body["model"] = model
        if self._settings.switch != "none":
            apply_switch(body, ReasoningOptions(on=True), self._settings)
        path = "/v1/chat/completions"
        answer = await request_app(app, scope, "POST", path, {**body, "thinking_token_budget": _PROBE_BUDGET})
        if answer.status >= 500:
            return None
        held = _reasoning_tokens(answer)
        if held is None or held > _PROBE_BUDGET + _SLACK:
            return "two_call"
        answer = await request_app(app, scope, "POST", path, body)
        if answer.status >= 500:
            return None
        free = _reasoning_tokens(answer)
        # A model that thinks this little by itself proves nothing.
        return "engine" if free is not None and free > held + _SLACK else "two_call"


def _reasoning_tokens(answer: InternalResponse) -> int | None:
    """Tokens of reasoning in an answer that also says something; None where it does not tell."""
    body: Any = answer.json()
    try:
        message, count = body["choices"][0]["message"], body["usage"]["completion_tokens_details"]["reasoning_tokens"]
    except (KeyError, IndexError, TypeError):
        return None
    return count if answer.status == 200 and isinstance(count, int) and message.get("content") else None
