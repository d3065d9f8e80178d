"""Schemathesis over vLLM's own OpenAPI document, through the gateway: no 5xx, no traceback, no slot kept.

A few requests an operation in `make test`; `make test-fuzz` sends a hundred times as many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from hybridserve.gateway.auth.api_keys import key_line, new_key
from support.prometheus_server import wait_until
from support.stack_service import Service, start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "4"))
# Routes that stop, rebuild or profile the engine.
ENDS_THE_ENGINE = ("/sleep", "/wake_up", "/scale_elastic_ep", "/pause", "/resume", "/start_profile", "/stop_profile")


class Fuzzed:
    """A service with short answers, a user's key, an operator's key, and its OpenAPI schema."""

    def __init__(self, folder: Path) -> None:
        self.user, self.operator = new_key(), new_key()
        keys = folder / "keys.txt"
        everything = ("inference", "metrics", "admin")
        keys.write_text(f"{key_line('user', self.user)}\n{key_line('operator', self.operator, everything)}\n")
        flags = [f"access.keys_file={keys}", "access.max_output_tokens=8", "access.max_prompt_tokens=64"]
        sets = [word for flag in flags for word in ("--set", flag)]
        self.service: Service = start(["--data-path", "single", *sets])
        self.client = httpx.Client(base_url=self.service.url, headers=_bearer(self.operator), timeout=60)
        document = self.client.get("/openapi.json").json()
        self.schema = schemathesis.openapi.from_dict(document)

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    fuzzed = Fuzzed(tmp_path_factory.mktemp("fuzz"))
    yield fuzzed
    fuzzed.client.close()
    assert fuzzed.service.stop() == 0


@pytest.mark.parametrize("client", ["anonymous", "user", "operator"])
def test_generated_requests_cause_no_5xx_and_keep_no_slot(fuzzed: Fuzzed, client: str) -> None:
    headers = {"anonymous": {}, "user": _bearer(fuzzed.user), "operator": _bearer(fuzzed.operator)}[client]
    seen: Counter[tuple[str, int]] = Counter()
    session = requests.Session()
    for result in fuzzed.schema.get_all_operations():
        operation = result.ok()
        if client == "operator" and operation.path.startswith(ENDS_THE_ENGINE):
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not operation.body and not list(operation.iter_parameters()):
                continue  # no parameters, so no invalid ones
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=EXAMPLES < 10,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def send(case: Any) -> None:
                response = case.call(base_url=fuzzed.service.url, headers=headers, session=session, timeout=60)
                seen[(case.operation.label, response.status_code)] += 1
                # 501: a route of vLLM that this engine does not support.
                allowed = (501,) if client == "operator" else ()
                assert response.status_code < 500 or response.status_code in allowed, (
                    f"{case.operation.label}: {response.status_code} {response.text[:500]}"
                )
                if response.status_code >= 400 and case.operation.path != "/health":
                    assert "Traceback" not in response.text
                if client == "anonymous" and case.operation.path not in ("/health", "/ready", "/about", "/licenses"):
                    assert response.status_code in (401, 403, 404), case.operation.label

            try:
                send()
            except Unsatisfiable:  # a schema that accepts anything has no invalid input
                if mode is GenerationMode.POSITIVE:
                    raise
    statuses = Counter(status for (_, status), count in seen.items() for _ in range(count))
    print(client, dict(statuses))
    assert sum(seen.values()) > 30
    if client == "user":
        assert statuses[200] > 0, "no request reached the engine"
    wait_until(
        lambda: fuzzed.metric("vllm:num_requests_running{") + fuzzed.metric("vllm:num_requests_waiting{") == 0, 60
    )
    chat = {"model": "demo", "messages": [{"role": "user", "content": "What is this?"}], "max_tokens": 4}
    assert fuzzed.client.post("/v1/chat/completions", json=chat).status_code == 200
