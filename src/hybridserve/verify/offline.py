"""A trusted engine for references: transformers over a folder with weights, in float32 and without any cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridserve.errors import ConfigError, EnvironmentFault
from hybridserve.verify.client import TOP, Answer


class TransformersEngine:
    """What `EngineClient` offers, computed here. Every token is a pass over the whole prompt, so it is slow and simple.

    Raises:
        EnvironmentFault: torch or transformers is not installed.
        ConfigError: the folder holds no model that transformers can load.
    """

    def __init__(self, folder: Path, model: str) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise EnvironmentFault("transformers", f"cannot be imported: {error}", "install hybridserve[cpu]") from None
        self._torch, self._model_name = torch, model
        try:
            self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            fix = "name a folder that transformers can load"
            raise ConfigError(str(folder), f"cannot be loaded: {str(error).splitlines()[0]}", fix) from None

    async def complete(self, prompt: Sequence[int], tokens: int, salt: str) -> Answer:
        """The greedy answer, as `EngineClient.complete`; there is no cache that a salt would divide."""
        ids, top = list(prompt), []
        for _ in range(tokens):
            best = self._logprobs(ids)[-1].topk(TOP)
            top.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            ids.append(next(iter(top[-1])))
        return Answer(tuple(ids[len(prompt) :]), tuple(top))

    async def forced(self, prompt: Sequence[int], answer: Sequence[int]) -> tuple[float, ...]:
        """Log-probabilities of the answer's tokens."""
        table = self._logprobs([*prompt, *answer])[len(prompt) - 1 : -1]
        return tuple(float(at[token]) for at, token in zip(table, answer, strict=True))

    async def tokenize(self, **body: Any) -> tuple[int, ...]:
        """Tokens of a prompt or of a chat."""
        if "prompt" in body:
            return tuple(self._tokenizer(body["prompt"]).input_ids)
        ids = self._tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=True)
        return tuple(getattr(ids, "input_ids", ids))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        return str(self._tokenizer.decode(list(tokens)))

    async def facts(self) -> dict[str, Any]:
        """As `EngineClient.facts`; the block size is not known here."""
        context = getattr(self._model.config, "max_position_embeddings", None)
        return {"model": self._model_name, "vllm": None, "max_model_len": context, "block_size": None, "busy": False}

    async def preemptions(self) -> float:
        """There are none."""
        return 0.0

    def _logprobs(self, ids: Sequence[int]) -> Any:
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([list(ids)]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)
