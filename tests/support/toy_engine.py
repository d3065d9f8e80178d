"""A toy language model behind vLLM's API, as an ASGI application. For tests of `hybridserve verify` without an engine.

Its log-probabilities are a function of the whole prompt, plus Gaussian noise of a given size. `broken` moves them for
prompts that the function selects.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

VOCABULARY = 24


class ToyEngine:
    """The application.

    Args:
        noise: standard deviation of every logit.
        broken: prompts whose logits are wrong.
        running: requests of others that it reports.
    """

    def __init__(
        self,
        noise: float = 0.0,
        broken: Callable[[Sequence[int]], bool] = lambda _: False,
        seed: int = 0,
        version: str = "0.29.0",
        running: int = 0,
    ) -> None:
        self.running = running
        self.noise = noise
        self.broken = broken
        self.version = version
        self.requests = 0
        self._random = random.Random(seed)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        self.requests += 1
        answer = self._answer(scope["path"], json.loads(body or b"{}"))
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": data})

    def _answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "demo", "max_model_len": 512}]}
        if path == "/version":
            return {"version": self.version}
        if path == "/metrics":
            return (
                'vllm:cache_config_info{block_size="32"} 1.0\nvllm:num_preemptions_total{a="b"} 3.0\n'
                f'vllm:num_requests_running{{a="b"}} {self.running}.0\n'
            )
        if path == "/tokenize":
            text = body.get("prompt") or json.dumps(body["messages"])
            return {
                "tokens": [int(hashlib.sha256(word.encode()).hexdigest(), 16) % VOCABULARY for word in text.split()]
            }
        if path == "/detokenize":
            return {"prompt": " ".join(map(str, body["tokens"]))}
        return {"choices": [self._complete(body)]}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = list(body["prompt"])
        if "prompt_logprobs" in body:
            first = max(1, len(prompt) - 40)  # nobody reads the ones before
            tables = [(prompt[end], self._logprobs(prompt[:end])) for end in range(first, len(prompt))]
            return {"prompt_logprobs": [*[None] * first, *({str(t): {"logprob": table[t]}} for t, table in tables)]}
        tokens, top = [], []
        for _ in range(body["max_tokens"]):
            table = self._logprobs(prompt)
            best = sorted(table, key=lambda token: -table[token])[: body["logprobs"]]
            prompt.append(best[0])
            tokens.append(f"token_id:{best[0]}")
            top.append({f"token_id:{token}": table[token] for token in best})
        return {"logprobs": {"tokens": tokens, "top_logprobs": top}}

    def _logprobs(self, prompt: Sequence[int]) -> dict[int, float]:
        logits, error = _logits(bytes(prompt))
        if self.broken(prompt):
            logits = [value + wrong for value, wrong in zip(logits, error, strict=True)]
        logits = [value + self._random.gauss(0, self.noise) for value in logits]
        total = math.log(sum(map(math.exp, logits)))
        return {token: value - total for token, value in enumerate(logits)}


@cache
def _logits(prompt: bytes) -> tuple[list[float], list[float]]:
    """Logits after a prompt, and what a broken engine adds."""
    source = random.Random(hashlib.sha256(prompt).digest())
    return [source.gauss(0, 3) for _ in range(VOCABULARY)], [source.gauss(0, 1) for _ in range(VOCABULARY)]
