"""The hybrid cache gives the right tokens: the served engine says what transformers' own NemotronH says, greedily.

The reference runs the same checkpoint in float32, one prompt at a time, without any cache of ours or vLLM's. The engine
must say the same alone, under load, on prefix-cache hits, on prompts longer than an attention block, and after having
been preempted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack_service import Service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "hybridserve" / "demo_model"
PROMPTS = json.loads((ROOT / "tests" / "data" / "demo_prompts.json").read_text())["prompts"]
TOKENS = 40


@dataclass(frozen=True)
class Case:
    """A chat and what transformers makes of it."""

    id: str
    messages: tuple[dict[str, str], ...]
    switch: dict[str, bool]
    prompt: tuple[int, ...]
    reply: tuple[int, ...]


class Reference:
    """transformers' NemotronH over the demo checkpoint."""

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        import torch
        from transformers import AutoTokenizer, NemotronHForCausalLM

        torch.set_num_threads(os.cpu_count() or 1)
        model = NemotronHForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        return torch, AutoTokenizer.from_pretrained(MODEL), model

    def case(self, name: str, messages: list[dict[str, str]], thinking: bool | None) -> Case:
        torch, tokenizer, model = self._parts
        switch = {} if thinking is None else {"enable_thinking": thinking}
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", **switch)
        ids = getattr(ids, "input_ids", ids)
        with torch.inference_mode():
            out = model.generate(ids, max_new_tokens=TOKENS, do_sample=False)
        reply = out[0, ids.shape[1] :].tolist()
        return Case(name, tuple(messages), switch, tuple(ids[0].tolist()), tuple(reply))

    def pad_to(self, messages: list[dict[str, str]], length: int) -> list[dict[str, str]]:
        """The chat with notes in front, so that its prompt is a few tokens shorter than `length`."""
        _, tokenizer, _ = self._parts
        filler = "The cache is paged. Each block belongs to one group. A long prompt is read in chunks. "
        text, question = "", messages[-1]["content"]
        while True:
            padded = [*messages[:-1], {"role": "user", "content": f"Here are some notes:\n{text}\n\n{question}"}]
            ids = tokenizer.apply_chat_template(padded, add_generation_prompt=True, tokenize=True)
            count = len(getattr(ids, "input_ids", ids))
            if count >= length - 12:
                return padded
            text += filler.split()[len(text.split()) % len(filler.split())] + " "


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def cases(reference: Reference) -> list[Case]:
    return [reference.case(entry["id"], entry["messages"], entry["enable_thinking"]) for entry in PROMPTS]


def ask(service: Service, case: Case) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and reply tokens as the served engine has them."""
    body = {
        "model": service.model,
        "messages": list(case.messages),
        "chat_template_kwargs": case.switch,
        "temperature": 0,
        "max_tokens": TOKENS,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    return tuple(said["prompt_token_ids"]), tuple(said["choices"][0]["token_ids"])


def ask_all(service: Service, cases: list[Case], at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(lambda case: ask(service, case), cases))
    wrong = [
        f"{case.id} ({len(case.prompt)} tokens): expected {case.reply}, got {reply}"
        for case, (prompt, reply) in zip(cases, answers, strict=True)
        if prompt != case.prompt or reply != case.reply
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n" + "\n".join(wrong)


def block_size(service: Service) -> int:
    return int(httpx.get(f"{service.url}/plan", timeout=30).json()["engine"]["block_size"])


def test_the_prompts_are_enough_and_of_every_kind(service: Service, cases: list[Case]) -> None:
    assert len(cases) >= 32
    block = block_size(service)
    assert sum(len(case.prompt) > block for case in cases) >= 8, "too few prompts are longer than an attention block"
    assert len({case.reply for case in cases}) > 20, "a model that always says the same would pass everything"


def test_alone(service: Service, cases: list[Case]) -> None:
    ask_all(service, cases, at_once=1)


def test_sixteen_at_once(service: Service, cases: list[Case]) -> None:
    ask_all(service, [*cases, *reversed(cases)], at_once=16)


def test_on_prefix_cache_hits(service: Service, cases: list[Case]) -> None:
    block = block_size(service)
    long = [case for case in cases if len(case.prompt) > block]
    before = service.metric("vllm:prefix_cache_hits_total")
    for _ in range(2):
        ask_all(service, long, at_once=4)
    hits = service.metric("vllm:prefix_cache_hits_total") - before
    assert hits >= block * len(long), f"only {hits:g} prompt tokens came from the cache"


def test_after_a_forced_preemption(start_service: Callable[..., Service], reference: Reference) -> None:
    """Sixteen sequences whose replies all cross a block boundary, in a pool that cannot hold that."""
    probe = httpx.Client(timeout=300)
    service = start_service("--set", "engine.max_num_seqs=16", "--set", f"engine.kv_cache_memory_bytes={POOL_BYTES}")
    plan = probe.get(f"{service.url}/plan").json()
    assert plan["holds"], plan["differences"]
    block = plan["engine"]["block_size"]
    short = [entry for entry in PROMPTS if entry["kind"] == "short" and len(entry["messages"]) == 1][:16]
    tight = [
        reference.case(entry["id"], reference.pad_to(entry["messages"], block), entry["enable_thinking"])
        for entry in short
    ]
    assert all(len(case.prompt) <= block < len(case.prompt) + len(case.reply) for case in tight[:4])
    before = service.metric("vllm:num_preemptions_total")
    ask_all(service, tight * 2, at_once=16)
    preemptions = service.metric("vllm:num_preemptions_total") - before
    assert preemptions > 0, f"nothing was preempted with {plan['engine']['num_gpu_blocks']} blocks"


# Forty blocks of the demo model: enough to admit a dozen prompts of one block, too few for all of them to grow.
POOL_BYTES = 40 * 147_456
