"""A guard model behind an OpenAI-compatible endpoint, as vLLM serves one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridserve.guards.base import GuardError, GuardVerdict, Message, Stage
from hybridserve.guards.conversation import alternating, safety_guard_prompt, transcript
from hybridserve.guards.http_client import GuardHTTP
from hybridserve.guards.parsers import PARSERS
from hybridserve.settings.guard import GuardFormat

# Arguments of the guards' chat templates that select the format which our parsers read.
TEMPLATE_KWARGS: Mapping[str, Mapping[str, Any]] = {
    "nemotron_content_safety": {"request_categories": "/categories"},
    "granite_guardian": {"guardian_config": {"criteria_id": "harm"}},
}


class ModelGuard:
    """Sends the conversation to a guard model and parses its verdict.

    Args:
        url: OpenAI base, such as ``http://guard:8000/v1``.
        form: the format of the verdicts, which selects the parser.
        prompt: text with ``{conversation}`` that replaces our own prompt or the guard's chat template.
    """

    is_local = False

    def __init__(
        self,
        *,
        url: str,
        model: str,
        form: GuardFormat,
        api_key: str | None = None,
        timeout_s: float = 5.0,
        max_tokens: int = 128,
        controversial_blocks: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
        prompt: str | None = None,
    ) -> None:
        self.name = model
        self._http = GuardHTTP(url, api_key, timeout_s)
        self._form: GuardFormat = form
        self._parse = PARSERS[form]
        self._prompt = prompt
        self._controversial_blocks = controversial_blocks
        self._request: dict[str, Any] = {"model": model, "temperature": 0.0, "max_tokens": max_tokens}
        kwargs = {**TEMPLATE_KWARGS.get(form, {}), **(template_kwargs or {})}
        if kwargs:
            self._request["chat_template_kwargs"] = kwargs

    async def check(self, messages: Sequence[Message], stage: Stage) -> GuardVerdict:
        body = {**self._request, "messages": self._messages(messages, stage)}
        text, finish = _answer(await self._http.post("/chat/completions", body))
        try:
            if finish != "stop":
                raise GuardError(f"the verdict was cut off: finish_reason {finish}")
            if not isinstance(text, str):
                raise GuardError("the verdict is empty")
            parsed = self._parse(text, stage)
        except GuardError as error:
            # The text under check can make a guard model write anything.
            raise GuardError(error.detail, unjudgeable=True) from None
        if parsed.unsafe or (parsed.controversial and self._controversial_blocks):
            return GuardVerdict("block", self.name, parsed.categories)
        return GuardVerdict("allow", self.name)

    async def probe(self) -> None:
        await self.identity()

    async def identity(self) -> dict[str, Any]:
        """What the endpoint serves under this name: vLLM lists the model's path or repository, and its context.

        Raises:
            GuardError: it cannot be reached, or does not serve it.
        """
        listing = await self._http.get("/models")
        data = listing.get("data")
        for entry in data if isinstance(data, list) else []:
            if isinstance(entry, dict) and entry.get("id") == self.name:
                return {name: entry.get(name) for name in ("root", "parent", "max_model_len")}
        raise GuardError(f"the endpoint does not serve {self.name}")

    async def close(self) -> None:
        await self._http.close()

    def _messages(self, messages: Sequence[Message], stage: Stage) -> list[Message]:
        if self._prompt is not None:
            return [{"role": "user", "content": self._prompt.replace("{conversation}", transcript(messages, stage))}]
        if self._form == "nemotron_safety_guard":
            return [{"role": "user", "content": safety_guard_prompt(messages, stage)}]
        return alternating(messages, stage)


def _answer(answer: Mapping[str, Any]) -> tuple[object, object]:
    """Text and finish reason of the guard's answer."""
    try:
        (choice,) = answer["choices"]
        return choice["message"]["content"], choice["finish_reason"]
    except (KeyError, TypeError, ValueError):
        raise GuardError("the guard's response is not a chat completion") from None
