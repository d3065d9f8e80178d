"""The served engine reuses nearly every prompt token that it has computed before.

With vLLM's own block size on CPU a prompt of these lengths hits nothing on its second request: prefill ends off the
state grid (`cpu_resets_block_size` in catalog/engines.yaml). `make bench-cache` measures whole conversations.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from hybridserve.cli.app import app
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


def test_requests_of_a_live_server_are_explained_as_its_engine_counted(
    service: Service, cache_traces: Path, tmp_path: Path
) -> None:
    ours, before = "hybridserve_prefix_hit_tokens_total", len(recorded(cache_traces))
    counted = service.metric(ours)
    source = random.Random(11)
    prompt, hits = source.choices(range(100, 900), k=1000), []
    for _ in range(4):
        hits.append(send(service, prompt))
        prompt = prompt + source.choices(range(100, 900), k=330)
    deadline = time.monotonic() + 30
    while len(lines := recorded(cache_traces)[before:]) < len(hits):  # the accounting has a thread of its own
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))
    shown = CliRunner().invoke(app, ["cache", "explain", str(tmp_path / "trace.jsonl"), "--json"])
    found = json.loads(shown.stdout)
    served = next(
        option for option in found["options"] if option["name"] == f"block_size 384, prefix_match_unit {UNIT}"
    )
    assert hits == [0, 992, 1312, 1632]
    assert found["recorded_hit_tokens"] == served["hit"] == service.metric(ours) - counted == sum(hits)


def recorded(folder: Path) -> list[str]:
    """The lines of the only replica."""
    return [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
