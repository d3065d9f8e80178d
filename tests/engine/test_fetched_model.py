"""vLLM loads by name and commit, with no network, what `hybridserve fetch` downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridserve.fetch.downloader import Hub, fetch
from hybridserve.fetch.files import Store
from support.fake_hub import COMMIT, REPOSITORY, running

pytestmark = pytest.mark.engine


PROGRAM = """
import sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    engine = LLM(model=sys.argv[1], revision=sys.argv[2], dtype="bfloat16", max_model_len=512, max_num_seqs=2,
                 enforce_eager=True, kv_cache_memory_bytes=64 * 2**20)
    messages = [{"role": "system", "content": "/no_think"}, {"role": "user", "content": "What is this?"}]
    outputs = engine.chat(messages, SamplingParams(temperature=0, max_tokens=60))
    print("ANSWER", outputs[0].outputs[0].text)
"""


def test_vllm_loads_a_fetched_model_offline(tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    with running() as hub:
        fetch(Hub(hub.url), Store(cache, REPOSITORY, COMMIT))
    program = tmp_path / "load.py"
    program.write_text(PROGRAM)
    environ = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    loaded = subprocess.run(
        [sys.executable, program, REPOSITORY, COMMIT], env=environ, capture_output=True, text=True, timeout=240
    )
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert "hybridserve" in loaded.stdout.partition("ANSWER")[2]
