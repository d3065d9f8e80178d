"""Live settings on real Ray Serve: a changed `user_config` applies in the same replica process.

The configuration is applied to Serve's controller as the dashboard does it with KubeRay's `serveConfigV2`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from support.stack_service import free_port

pytestmark = [pytest.mark.stack, pytest.mark.scale, pytest.mark.timeout(300)]
PORT = free_port()


@pytest.fixture(scope="module")
def apply() -> Iterator[Callable[..., None]]:
    """Applies a configuration with these live settings."""

    def deploy(**live: dict[str, Any]) -> None:
        application = {
            "name": "hybridserve",
            "import_path": "hybridserve.runtime.ray_app:build_app",
            "args": {"settings": {"server": {"port": PORT}, "engine": {"max_num_seqs": 4}}},
            "deployments": [{"name": "engine", "user_config": live}],
        }
        _get_global_client()._controller.apply_config.remote(ServeDeploySchema(applications=[application]))

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    deploy()
    wait(lambda: chat().status_code == 200, 120)
    yield deploy
    serve.shutdown()
    ray.shutdown()


def chat(**body: Any) -> httpx.Response:
    request = {"model": "demo", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}], **body}
    return httpx.post(f"http://127.0.0.1:{PORT}/v1/chat/completions", json=request, timeout=60, trust_env=False)


def knows_effort(name: str) -> bool:
    """Whether the gateway accepts the name; the demo model itself has no reasoning to limit."""
    error = chat(reasoning={"effort": name}).json().get("error", {})
    return error.get("code") != "invalid_reasoning"


def wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if done():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)


def replica() -> tuple[str, int]:
    """Id and process of the only replica."""
    deployments = _get_global_client().get_serve_details()["applications"]["hybridserve"]["deployments"]
    (one,) = deployments["engine"]["replicas"]
    return one["replica_id"], one["pid"]


def test_limits_reasoning_and_log_level_change_in_the_running_replica(apply: Callable[..., None]) -> None:
    before = replica()
    assert chat(n=2).status_code == 200
    assert not knows_effort("brief")
    apply(access={"max_choices": 1}, reasoning={"efforts": {"brief": 10}}, telemetry={"log_level": "debug"})
    wait(lambda: chat(n=2).status_code == 400, 30)
    assert knows_effort("brief")
    assert replica() == before
    apply()  # a setting that is left out has its default again
    wait(lambda: chat(n=2).status_code == 200, 30)
    assert not knows_effort("brief")
    assert replica() == before
