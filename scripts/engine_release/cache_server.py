"""Whether identical prompts hit the prefix cache of a server of the release, on this CPU, with the demo model.

The server runs its core in a process of its own, as in production: in-process engines behave differently.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import httpx

from engine_release.release import ROOT, Release

MODEL = ROOT / "src" / "hybridserve" / "demo_model"
LENGTHS = (800, 1076, 1738, 2056)
SENDINGS = 3
START_S = 500
FLAGS = ("--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "4", "--enable-prompt-tokens-details")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}


@dataclass(frozen=True)
class CacheTest:
    """Cached tokens of each sending, by prompt length; empty where the engine died."""

    hits: dict[int, tuple[int, ...]]
    alive: bool

    @property
    def second_hits(self) -> bool:
        """Every prompt is reused on its second sending."""
        return self.alive and all(hits[1] > 0 for hits in self.hits.values())


def test_cache(release: Release, *extra: str) -> CacheTest:
    """Serve the demo model and send each prompt three times."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--port", str(port)]
    with tempfile.TemporaryFile("w+") as log, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", *FLAGS, *extra],
            env=release.environment | ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            if not _ready(client, server):
                log.seek(0)
                print(log.read()[-3000:], file=sys.stderr)
                raise SystemExit(f"the server of vLLM {release.version} did not start")
            return _send_prompts(client)
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(1)
    return False


def _send_prompts(client: httpx.Client) -> CacheTest:
    hits: dict[int, tuple[int, ...]] = {}
    for length in LENGTHS:
        prompt = random.Random(length).choices(range(10, 200), k=length)
        found = []
        for _ in range(SENDINGS):
            try:
                body = {"model": str(MODEL), "prompt": prompt, "max_tokens": 1}
                answer = client.post("/v1/completions", json=body)
                answer.raise_for_status()
            except httpx.HTTPError:
                return CacheTest({**hits, length: tuple(found)}, alive=False)
            details = answer.json()["usage"].get("prompt_tokens_details") or {}
            found.append(details.get("cached_tokens") or 0)
        hits[length] = tuple(found)
    return CacheTest(hits, alive=True)
