"""Logs of Ray Serve and vLLM in the configured format."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridserve.observability.logging import ENGINE_CONFIG, engine_config
from hybridserve.settings import load
from hybridserve.settings.telemetry import TelemetrySection

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(("form", "requests"), [("json", True), ("json", False), ("text", True)])
def test_ray_replica_logs_follow_the_settings(tmp_path: Path, form: str, requests: bool) -> None:
    from ray import serve
    from ray.serve._private.common import ServeComponentType
    from ray.serve._private.config import DeploymentConfig
    from ray.serve._private.logging_utils import access_log_msg, configure_component_logger
    from ray.serve.schema import LoggingConfig

    from hybridserve.deployment.resolve import resolve_deployment
    from hybridserve.runtime.ray_app import deployment_options

    words = [f"telemetry.log_format={form}", f"telemetry.log_requests={str(requests).lower()}"]
    options = deployment_options(resolve_deployment(load(assignments=words, environ={}).settings))
    made = serve.deployment(**options)(type("Replica", (), {}))
    # As it reaches the replica: through the controller, as a protocol buffer.
    sent = DeploymentConfig.from_proto_bytes(made._deployment_config.to_proto_bytes())
    config = LoggingConfig(**sent.logging_config | {"logs_dir": str(tmp_path)})
    serves = logging.getLogger("ray.serve")
    before = list(serves.handlers)
    try:
        configure_component_logger(
            component_name="engine", component_id="r", logging_config=config, max_bytes=10**6, backup_count=1,
            component_type=ServeComponentType.REPLICA,
        )  # fmt: skip
        line = access_log_msg(method="POST", route="/v1/chat/completions", status="200", latency_ms=1.0, client=None)
        serves.info(line, extra={"route": "/", "request_id": "an-id", "serve_access_log": True, "log_to_stderr": False})
        serves.warning("a warning")
    finally:
        serves.handlers[:] = before
    (file,) = tmp_path.glob("*.log")
    lines = file.read_text().splitlines()
    assert len(lines) == (2 if requests else 1)
    if form == "json":
        read = [json.loads(one) for one in lines]
        assert [one["request_id"] for one in read if "POST" in one["message"]] == (["an-id"] if requests else [])


def test_engine_log_lines_are_json(tmp_path: Path) -> None:
    """vLLM puts the name of its process before whatever goes through `sys.stderr`."""
    (tmp_path / "vllm.json").write_text(json.dumps(engine_config(TelemetrySection(log_format="json"))))
    code = (
        "from vllm.logger import init_logger; from vllm.utils.system_utils import decorate_logs; "
        "decorate_logs('EngineCore'); init_logger('vllm.v1.engine.async_llm').info('Added request %s.', 'an-id')"
    )
    environ = {**os.environ, ENGINE_CONFIG: str(tmp_path / "vllm.json")}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    (line,) = [json.loads(line) for line in done.stderr.splitlines() if "an-id" in line]
    assert (line["logger"], line["message"]) == ("vllm.v1.engine.async_llm", "Added request an-id.")
