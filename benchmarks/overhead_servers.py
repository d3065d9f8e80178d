"""The servers of the overhead benchmark, each a separate process: ``overhead_servers.py '["kind", {...}]'``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

GUARD_S = 0.05


@contextmanager
def running(kind: str, log: Path, environment: dict[str, str] | None = None, **rest: Any) -> Iterator[int]:
    """Run a server in a new session; ends all its processes afterwards. Yields its process id."""
    command = [sys.executable, __file__, json.dumps([kind, rest])]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **(environment or {})}
    with log.open("w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=environment)
    try:
        yield child.pid
    finally:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_for(name: str, pid: int, port: int, key: str, log: Path, timeout_s: float = 400) -> None:
    """Wait until a chat is answered.

    Raises:
        SystemExit: it ended, or took too long.
    """
    deadline = time.monotonic() + timeout_s
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    while True:
        if time.monotonic() > deadline or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            raise SystemExit(f"{name} did not start:\n{log.read_text()[-2000:]}")
        try:
            if httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_ours(settings: dict[str, Any]) -> None:
    """`hybridserve serve` with the switch of `overhead_variants` in place of the gateway."""
    # The switch imports Ray before `serve` can set up its token, and Ray reads that when it is imported.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import overhead_variants

    from hybridserve.runtime import ray_app
    from hybridserve.runtime import serve as service
    from hybridserve.runtime.backends import standalone as single
    from hybridserve.settings import Settings

    ray_app.Replica = overhead_variants.SwitchedReplica
    single.MIDDLEWARE = "overhead_variants.SwitchedMiddleware"
    service.serve(Settings.model_validate(settings), service.Progress(lambda _: None), lambda _: None)


def serve_vllm(words: list[str]) -> None:
    """Plain `vllm serve`: this process becomes it."""
    os.execv(sys.executable, [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words])


def serve_ray_default(config: dict[str, Any], port: int, folder: str) -> None:
    """Ray Serve LLM with its own ingress, at the same priority: by default Ray runs workers at niceness 15."""
    os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=100 * 1024 * 1024, _temp_dir=folder)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_openai_app({"llm_configs": [LLMConfig(**config)]}), blocking=True)


def serve_stub(port: int) -> None:
    """A guard model that allows everything after a fixed time."""
    import uvicorn

    answer = json.dumps({"choices": [{"message": {"content": "safe"}, "finish_reason": "stop"}]}).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(GUARD_S)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    kind, arguments = json.loads(sys.argv[1])
    kinds: dict[str, Callable[..., None]] = {
        "ours": serve_ours,
        "vllm": serve_vllm,
        "ray default": serve_ray_default,
        "stub": serve_stub,
    }
    kinds[kind](**arguments)
