"""The requests that the README, the quick start and the page about serving show, sent to the demo service."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.doc_blocks import Block, shell_blocks
from support.stack_service import Service

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / page for page in ("README.md", "docs/getting-started/quickstart-cpu.md", "docs/how-to/serve.md")]
BLOCKS = [(page, block) for page in PAGES for block in shell_blocks(page) if block.script.startswith("curl ")]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page.stem}-{block.line}" for page, block in BLOCKS])
def test_documented_request_is_answered(page: Path, block: Block, service: Service) -> None:
    script = block.script.replace("http://127.0.0.1:8000", service.url).replace("curl ", "curl --fail --silent ")
    assert service.url in script
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{page.name}: {script}\n{done.stdout}{done.stderr}"
    if " -N " in script:  # a stream
        assert done.stdout.rstrip().endswith("data: [DONE]")
        return
    answer = json.JSONDecoder().raw_decode(done.stdout)[0]
    if "chat/completions" in script:
        [choice] = answer["choices"]
        assert choice["finish_reason"] == ("tool_calls" if '"tools"' in script else "stop")
        assert choice["message"]["content"] or choice["message"]["tool_calls"]
