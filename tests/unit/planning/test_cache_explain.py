"""`hybridserve cache explain`: the numbers that the engine counted, the recommendation, and its errors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hybridserve.cli.app import app, main

# Counted by vLLM 0.29.0 on CPU with the demo model: hit tokens of six turns of 1,820 to 3,495 prompt tokens.
ENGINE = {
    "both empty": 8_832,
    "block_size 384": 11_520,
    "prefix_match_unit 32": 12_352,
    "block_size 384, prefix_match_unit 32": 12_352,
    "prefix caching off": 0,
}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    source = random.Random(1)
    prompt = source.choices(range(900), k=1820)
    lines = []
    for _ in range(6):
        lines.append(json.dumps({"prompt": prompt, "output": source.choices(range(900), k=30)}))
        prompt = prompt + source.choices(range(900), k=335)
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))
    return tmp_path / "trace.jsonl"


def test_conversation_hits_what_the_engine_counted(trace: Path) -> None:
    run = CliRunner().invoke(app, ["cache", "explain", str(trace), "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    hits = {option["name"]: option["hit"] for option in found["options"]}
    assert {name: hits[name] for name in ENGINE} == ENGINE
    assert found["recommended"]["prefix_match_unit"] == 16
    costs = {option["name"]: (option["state_blocks"], option["n_safe"]) for option in found["options"]}
    assert costs["prefix caching off"][0] == 0
    assert costs["prefix caching off"][1] > costs["both empty"][1]


def test_table_names_the_best_settings_and_what_is_still_lost(trace: Path) -> None:
    shown = CliRunner().invoke(app, ["cache", "explain", str(trace)]).stdout
    assert "6 requests, 15,945 prompt tokens, 12,400 reusable" in shown
    assert shown.splitlines()[-1] == "recommended: prefix_match_unit 16; still lost: nothing"


@pytest.mark.parametrize(
    ("text", "where"),
    [(None, "TRACE"), ("{", "trace.jsonl:1"), ("", "trace.jsonl"), ('{"prompt": [1.5]}', "trace.jsonl:1")],
)
def test_unreadable_trace_is_one_error(
    tmp_path: Path, text: str | None, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trace.jsonl"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["cache", "explain", str(file)])
    assert caught.value.code == 2
    assert where in capsys.readouterr().err.splitlines()[0]
