"""A real vLLM server on CPU with the demo model, a pool that preempts, and faults that a test switches on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from hybridserve.deployment.resolve import resolve_deployment
from hybridserve.engine.preload import inline_worker_flags
from hybridserve.planning.render import command_line
from hybridserve.settings import load
from hybridserve.settings.verify import VerifySection
from hybridserve.verify.client import EngineClient
from hybridserve.verify.evidence import result_document
from hybridserve.verify.reference import Reference
from hybridserve.verify.run import Load, check
from support.stack_service import NO_COMPILER, free_port

TESTS = Path(__file__).resolve().parents[1]
# Too few blocks for sixteen sequences of one block that all grow into the next.
POOL = ["engine.max_num_seqs=16", f"engine.kv_cache_memory_bytes={40 * 147_456}"]
EXTENSION = "support.numeric_faults.NumericFaults"


@dataclass(frozen=True)
class FaultyEngine:
    """A running server without a gateway."""

    url: str

    def switch(self, fault: str) -> None:
        """Switch to a fault of `support.numeric_faults`, or to `none`."""
        body = {"method": "set_fault", "args": [fault]}
        response = httpx.post(f"{self.url}/collective_rpc", json=body, timeout=60, trust_env=False)
        assert response.status_code == 200, response.text


@contextmanager
def faulty_engine(assign: Sequence[str] = ()) -> Iterator[FaultyEngine]:
    """Start the server as `hybridserve serve` would, with vLLM's development routes, and stop it at the end."""
    spec = resolve_deployment(load(None, [*POOL, *assign]).settings, datetime.now(UTC).date())
    port = free_port()
    words = command_line(spec.engine_args, "127.0.0.1", port)[2:]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *words]
    command += [*inline_worker_flags(spec.settings), "--worker-extension-cls", EXTENSION]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **spec.engine_environment, **NO_COMPILER, "PYTHONPATH": path}
    environment["VLLM_SERVER_DEV_MODE"] = "1"
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            engine = FaultyEngine(f"http://127.0.0.1:{port}")
            _wait(engine.url, process, Path(log.name))
            yield engine
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.5)
    raise TimeoutError(log.read_text()[-3000:])


def compared(engine: FaultyEngine, known: Reference, load: Load) -> dict[str, Any]:
    """The result of one run, by what the command calls: to start the command takes longer than some of the runs."""
    alpha = VerifySection.model_fields["false_alarm_rate"].default

    async def run() -> dict[str, Any]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=engine.url, limits=limits, trust_env=False) as http:
            used, results = await check(EngineClient(http, "demo"), known, (), {}, load, alpha)
        return result_document(results, used.about, alpha, known.sha256)

    return asyncio.run(run())


def verify(engine: FaultyEngine, *options: str) -> tuple[int, dict[str, Any]]:
    """`hybridserve verify --json` on the engine: its exit code and its document."""
    command = [str(Path(sys.executable).parent / "hybridserve"), "verify", engine.url, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)
