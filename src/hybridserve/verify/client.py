"""HTTP client of a numeric check: greedy completions of token prompts with their log-probabilities, from vLLM's API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

import httpx

from hybridserve.errors import ServiceError

# vLLM's default for max_logprobs.
TOP = 20
# Log-probability of a token that the engine does not report where it must be.
ABSENT = -100.0
_TIMEOUT_S = 300.0
_DIRECT = "use the engine's own address (vllm serve), or verify.at_start, which checks behind the gateway"


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy answer: tokens, and the likeliest tokens at each position with their log-probabilities."""

    tokens: tuple[int, ...]
    top: tuple[Mapping[int, float], ...]


class Engine(Protocol):
    """What a check asks of an engine; see `EngineClient`."""

    async def complete(self, prompt: Sequence[int], tokens: int, salt: str) -> Answer: ...

    async def forced(self, prompt: Sequence[int], answer: Sequence[int]) -> tuple[float, ...]: ...

    async def tokenize(self, **body: Any) -> tuple[int, ...]: ...

    async def detokenize(self, tokens: Sequence[int]) -> str: ...

    async def facts(self) -> dict[str, Any]: ...

    async def preemptions(self) -> float: ...


class EngineClient:
    """Requests to one engine.

    Args:
        http: with the engine's address, and a key where one is needed.
        model: name that the engine serves.
    """

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        self._http = http
        self._model = model

    async def complete(self, prompt: Sequence[int], tokens: int, salt: str) -> Answer:
        """The greedy answer of `tokens` tokens. Prompts share cached blocks only under the same salt.

        Raises:
            ServiceError: the service refuses the request, or leaves out what was asked for.
        """
        choice = await self._completion(
            prompt, salt, max_tokens=tokens, logprobs=TOP, ignore_eos=True, return_tokens_as_token_ids=True
        )
        try:
            top = [
                {_token(name): float(value) for name, value in at.items()} for at in choice["logprobs"]["top_logprobs"]
            ]
            chosen = tuple(_token(name) for name in choice["logprobs"]["tokens"])
        except (TypeError, KeyError, ValueError, AttributeError):
            raise self._fault("returned no log-probabilities by token ID", _DIRECT) from None
        if len(top) != tokens or not all(top):
            raise self._fault(f"returned {len(top)} of {tokens} tokens", "check max_model_len and the engine's log")
        return Answer(chosen, tuple(top))

    async def forced(self, prompt: Sequence[int], answer: Sequence[int]) -> tuple[float, ...]:
        """Log-probabilities of the answer's tokens when the engine reads prompt and answer in one prefill."""
        choice = await self._completion((*prompt, *answer), "", max_tokens=1, prompt_logprobs=0)
        values = choice.get("prompt_logprobs")
        if not isinstance(values, list):
            return ()
        # An engine that lost a part of the prompt reports other tokens at these positions, or fewer positions.
        reported = zip_longest(answer, values[len(prompt) : len(prompt) + len(answer)])
        found = [(at or {}).get(str(token)) for token, at in reported]
        return tuple(float(one["logprob"]) if one else ABSENT for one in found)

    async def tokenize(self, **body: Any) -> tuple[int, ...]:
        """Tokens of a prompt or of a chat."""
        answer = await self._post("/tokenize", body)
        return tuple(answer["tokens"])

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        return str((await self._post("/detokenize", {"tokens": list(tokens)}))["prompt"])

    async def facts(self) -> dict[str, Any]:
        """What the engine reports of itself: release, context length, block size; None for what it does not say.

        `busy`: it serves requests now, which are others' when this client has sent none.
        """
        models = await self._get("/v1/models")
        listed = {model["id"]: model for model in models.json()["data"]}
        if self._model not in listed:
            raise self._fault(f"serves {', '.join(listed)}, not {self._model}", "give the served name with --model")
        version = re.search(r'"version": *"([^"]+)"', await self._optional("/version"))
        metrics = await self._optional("/metrics")
        blocks = re.search(r'vllm:cache_config_info\{[^}]*\bblock_size="(\d+)"', metrics)
        return {
            "model": self._model,
            "vllm": version[1] if version else None,
            "max_model_len": listed[self._model].get("max_model_len"),
            "block_size": int(blocks[1]) if blocks else None,
            "busy": _total(metrics, "vllm:num_requests_running") > 0,
        }

    async def first_model(self) -> str:
        """The name of the first model in the service's list."""
        return str((await self._get("/v1/models")).json()["data"][0]["id"])

    async def preemptions(self) -> float:
        """Preemptions so far; 0 where the engine does not count them."""
        return _total(await self._optional("/metrics"), "vllm:num_preemptions_total")

    async def _completion(self, prompt: Sequence[int], salt: str, **fields: Any) -> dict[str, Any]:
        body = {"prompt": list(prompt), "temperature": 0.0, "seed": 0, **fields}
        if salt:
            body["cache_salt"] = salt
        answer = await self._post("/v1/completions", body)
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response = await self._send("POST", path, json={"model": self._model, **body})
        answer: dict[str, Any] = response.json()
        return answer

    async def _get(self, path: str) -> httpx.Response:
        return await self._send("GET", path)

    async def _optional(self, path: str) -> str:
        """The body of a route that a service may not offer to this client; empty then."""
        try:
            return (await self._get(path)).text
        except ServiceError:
            return ""

    async def _send(self, method: str, path: str, **fields: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, timeout=_TIMEOUT_S, **fields)
        except httpx.HTTPError as error:
            raise self._fault(f"does not answer {path}: {type(error).__name__} {error}", "start the engine") from None
        if response.status_code != 200:
            message = response.text[:300]
            fix = "give a key with --key-file" if response.status_code in (401, 403) else _DIRECT
            raise self._fault(f"answered {response.status_code} to {path}: {message}", fix)
        return response

    def _fault(self, what: str, fix: str) -> ServiceError:
        return ServiceError(str(self._http.base_url) or "engine", what, fix)


def _total(metrics: str, name: str) -> float:
    return sum(map(float, re.findall(rf"^{name}\{{[^}}]*\}} (\S+)$", metrics, re.M)))


def _token(name: str) -> int:
    return int(name.removeprefix("token_id:"))
