"""The served engine reuses nearly every prompt token that it has computed before.

With vLLM's own block size on CPU a prompt of these lengths hits nothing on its second request: prefill ends off the
state grid (`cpu_resets_block_size` in catalog/engines.yaml). `make bench-cache` measures whole conversations.
"""

from __future__ import annotations

import random

import httpx
import pytest

from support.stack_service import Service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

UNIT = 32


def send(service: Service, prompt: list[int]) -> int:
    """Prompt tokens of one request that came from the cache."""
    before = service.metric("vllm:prefix_cache_hits_total")
    body = {"model": service.model, "prompt": prompt, "max_tokens": 2, "temperature": 0}
    response = httpx.post(f"{service.url}/v1/completions", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return round(service.metric("vllm:prefix_cache_hits_total") - before)


@pytest.mark.parametrize("length", [800, 1076, 1738])
def test_repeated_prompt_hits_on_its_second_request(service: Service, length: int) -> None:
    prompt = random.Random(length).choices(range(100, 900), k=length)
    assert send(service, prompt) == 0
    assert send(service, prompt) == (length - 1) // UNIT * UNIT


def test_shared_document_is_reused_from_the_second_question_on(service: Service) -> None:
    source = random.Random(7)
    document = source.choices(range(100, 900), k=1280)
    hits = [send(service, document + source.choices(range(100, 900), k=200)) for _ in range(3)]
    assert hits == [0, 1152, 1152]
