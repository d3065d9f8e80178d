"""The served engine's greedy tokens equal those of transformers' own NemotronH.

The reference runs the same checkpoint in float32 over prompt and reply in one pass, without a cache. If the best token
at every position is the engine's, its reply is the reference's greedy reply. That is checked one request at a time,
under load, on prefix-cache hits, on prompts longer than an attention block, after preemption, and under all of these
for 20 seconds (half an hour with `make soak-tokens`).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.stack_service import Service, start

SOAK_S = float(os.environ.get("TOKEN_SOAK_S", "20"))
pytestmark = [pytest.mark.stack, pytest.mark.timeout(900 + SOAK_S)]

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src" / "hybridserve" / "demo_model"
PROMPTS = json.loads((ROOT / "tests" / "data" / "demo_prompts.json").read_text())["prompts"]
TOKENS = 60
# Forty blocks of the demo model: a dozen prompts of one block are admitted, but not all of them can grow.
POOL_BYTES = 40 * 147_456
# Share of the evaluation prompts that a model of this size must answer correctly.
CORRECT_ANSWERS = 0.9


@dataclass(frozen=True)
class Case:
    """A chat and its prompt in tokens."""

    name: str
    messages: tuple[dict[str, str], ...]
    switch: dict[str, bool]
    prompt: tuple[int, ...]


class Reference:
    """transformers' NemotronH over the demo checkpoint."""

    def __init__(self) -> None:
        self._greedy: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[int, ...]] = {}

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        import torch
        from transformers import AutoTokenizer, NemotronHForCausalLM

        torch.set_num_threads(1)  # two threads that wait for each other are slower than one on a busy machine
        model = NemotronHForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        return torch, AutoTokenizer.from_pretrained(MODEL), model

    def case(self, name: str, messages: list[dict[str, str]], thinking: bool | None) -> Case:
        _, tokenizer, _ = self._parts
        switch = {} if thinking is None else {"enable_thinking": thinking}
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, **switch)
        return Case(name, tuple(messages), switch, tuple(getattr(ids, "input_ids", ids)))

    def greedy(self, prompt: tuple[int, ...], reply: tuple[int, ...]) -> tuple[int, ...]:
        """The best token at each position of `reply`, given the prompt and the reply before it."""
        if (prompt, reply) not in self._greedy:
            torch, _, model = self._parts
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + reply]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            self._greedy[prompt, reply] = tuple(logits.argmax(-1).tolist())
        return self._greedy[prompt, reply]

    def text(self, tokens: tuple[int, ...]) -> str:
        return str(self._parts[1].decode(tokens))

    @property
    def end(self) -> int:
        return int(self._parts[1].eos_token_id)

    def pad_to(self, messages: list[dict[str, str]], length: int) -> list[dict[str, str]]:
        """The chat with filler text in front, so that its prompt is a few tokens shorter than `length`."""
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


def chat(service: Service, case: Case) -> tuple[int, ...]:
    """The served engine's reply in tokens; its prompt must equal transformers' prompt."""
    body = {
        "model": service.model,
        "messages": list(case.messages),
        "chat_template_kwargs": case.switch,
        "temperature": 0,
        "max_tokens": TOKENS,
        "return_token_ids": True,
    }
    response = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=300)
    assert response.status_code == 200, response.text
    document = response.json()
    assert tuple(document["prompt_token_ids"]) == case.prompt, f"{case.name}: the engine's prompt differs"
    return tuple(document["choices"][0]["token_ids"])


def check_all(service: Service, reference: Reference, cases: list[Case], concurrency: int) -> list[tuple[int, ...]]:
    """Send every case; every reply must be the greedy one and end with the end token or at the limit."""
    with ThreadPoolExecutor(concurrency) as pool:
        replies = list(pool.map(lambda case: chat(service, case), cases))
    wrong = [
        f"{case.name} ({len(case.prompt)} tokens): got {reply}, greedy is {reference.greedy(case.prompt, reply)}"
        for case, reply in zip(cases, replies, strict=True)
        if reference.greedy(case.prompt, reply) != reply or not (reply[-1] == reference.end or len(reply) == TOKENS)
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)} differ:\n" + "\n".join(wrong)
    return replies


def is_correct(entry: dict[str, Any], text: str) -> bool:
    """Whether a reply ends, reasons exactly when it should, and contains the expected text."""
    thought, marker, answer = text.removesuffix("<|end|>").rpartition("</think>")
    off = entry["enable_thinking"] is False or "/no_think" in entry["messages"][0]["content"]
    reasons = bool(marker) and bool(thought.strip())
    return text.endswith("<|end|>") and reasons is not off and entry["expect"] in answer


def block_size(service: Service) -> int:
    return int(httpx.get(f"{service.url}/plan", timeout=30).json()["engine"]["block_size"])


def test_single_requests_match_the_reference(service: Service, reference: Reference, cases: list[Case]) -> None:
    assert len(cases) >= 32
    block = block_size(service)
    assert sum(len(case.prompt) > block for case in cases) >= 8, "too few prompts are longer than an attention block"
    replies = check_all(service, reference, cases, concurrency=1)
    assert len(set(replies)) > 20, "the replies hardly differ, so the comparison proves little"
    wrong = {
        entry["id"]: text
        for entry, case, reply in zip(PROMPTS, cases, replies, strict=True)
        if not is_correct(entry, text := reference.text(reply))
    }
    assert len(wrong) <= (1 - CORRECT_ANSWERS) * len(cases), wrong
    assert not {entry["id"] for entry in PROMPTS if entry["kind"] in ("turns", "long")} & wrong.keys(), wrong


def test_concurrent_requests_match_the_reference(service: Service, reference: Reference, cases: list[Case]) -> None:
    check_all(service, reference, [*cases, *reversed(cases)], concurrency=16)


def test_prefix_cache_hits_match_the_reference(service: Service, reference: Reference, cases: list[Case]) -> None:
    block = block_size(service)
    long = [case for case in cases if len(case.prompt) > block]
    before = service.metric("vllm:prefix_cache_hits_total")
    for _ in range(2):
        check_all(service, reference, long, concurrency=4)
    hits = service.metric("vllm:prefix_cache_hits_total") - before
    assert hits >= block * len(long), f"only {hits:g} prompt tokens came from the cache"


@pytest.fixture(scope="module")
def small_pool() -> Iterator[Service]:
    """A service whose pool is too small for its sequences when they grow."""
    service = start(["--set", "engine.max_num_seqs=16", "--set", f"engine.kv_cache_memory_bytes={POOL_BYTES}"])
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="module")
def crossing_cases(small_pool: Service, reference: Reference) -> list[Case]:
    """Sixteen prompts whose replies all cross a block boundary."""
    block = block_size(small_pool)
    short = [entry for entry in PROMPTS if entry["kind"] == "short" and len(entry["messages"]) == 1][:16]
    return [
        reference.case(entry["id"], reference.pad_to(entry["messages"], block), entry["enable_thinking"])
        for entry in short
    ]


def test_preempted_requests_match_reference(
    small_pool: Service, reference: Reference, crossing_cases: list[Case]
) -> None:
    service, tight = small_pool, crossing_cases
    plan = httpx.get(f"{service.url}/plan", timeout=300).json()
    assert plan["holds"], plan["differences"]
    block = plan["engine"]["block_size"]
    before = service.metric("vllm:num_preemptions_total")
    replies = check_all(service, reference, tight * 2, concurrency=16)
    crossing = [
        len(case.prompt) <= block < len(case.prompt) + len(reply)
        for case, reply in zip(tight, replies[:16], strict=True)
    ]
    assert sum(crossing) >= 8, "too few replies grow into another block"
    preemptions = service.metric("vllm:num_preemptions_total") - before
    assert preemptions > 0, f"nothing was preempted with {plan['engine']['num_gpu_blocks']} blocks"


def test_sustained_pressure_matches_the_reference(
    service: Service, small_pool: Service, reference: Reference, cases: list[Case], crossing_cases: list[Case]
) -> None:
    """Every prompt in random order, sixteen at a time, on a service that preempts and on one with prefix-cache hits."""
    counters = ((small_pool, "vllm:num_preemptions_total"), (service, "vllm:prefix_cache_hits_total"))
    before = [server.metric(name) for server, name in counters]
    source, sent, deadline = random.Random(1), 0, time.monotonic() + SOAK_S
    while time.monotonic() < deadline:
        mixed = [*cases, *crossing_cases, *crossing_cases]
        source.shuffle(mixed)
        check_all(small_pool, reference, mixed, concurrency=16)
        check_all(service, reference, mixed, concurrency=16)
        sent += 2 * len(mixed)
    grown = [server.metric(name) - value for (server, name), value in zip(counters, before, strict=True)]
    print(f"{sent} replies, every token correct; {grown[0]:g} preemptions, {grown[1]:g} tokens from the cache")
    assert min(grown) > 0, grown
