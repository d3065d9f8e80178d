"""What a report says about a run with known records."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from hybridserve.cli.app import app
from hybridserve.loadtest.request_record import Outcome, Record
from hybridserve.loadtest.scenario import load_scenario
from hybridserve.loadtest.session import RunFile


def answer(start: float, first: float, gap: float, warm_up: bool = False) -> Record:
    chunks = tuple(first + gap * index for index in range(5))
    about = {"kind": "chat", "level": 8.0, "output_tokens": 5, "usage": True}
    return Record(start, start, chunks[-1], Outcome.OK, warm_up=warm_up, chunks=chunks, **about)  # type: ignore[arg-type]


def test_report_names_missed_limits_and_requests_that_are_not_counted(tmp_path: Path) -> None:
    records = [answer(1000, 3, 0.2, warm_up=True)] * 8
    records += [answer(1005, 1.5, 0.3), answer(1006, 0.5, 0.01), answer(1007, 2, 0.05)]
    (tmp_path / "requests-0.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    (tmp_path / "sent-0").write_bytes(b"." * 13)
    windows = [json.dumps([1000 + index / 2, 0, 0.1, [0.001] * 9]) for index in range(30)]
    (tmp_path / "client-0.jsonl").write_text("\n".join(windows) + "\n")
    scenario = load_scenario("chat").model_dump(mode="json")
    RunFile("http://127.0.0.1:8000", "demo", (0, 9), str(tmp_path), 1, scenario).write(tmp_path / "run.json")

    done = CliRunner().invoke(app, ["loadtest", "--report", str(tmp_path)])
    assert done.exit_code == 1, done.output
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["left_out"] == {"warm_up": 8, "unfinished": 2}
    assert found["slo"]["checks"][0]["name"] == "attainment"
    for text in (done.output, (tmp_path / "report.html").read_text()):
        words = " ".join(text.split())
        assert "keep every limit (ttft 1 s, tpot 0.1 s). Not kept, of 3 requests: ttft 2, tpot 1, failed 0;" in words
        assert "The SLO is missed. Not met: attainment." in words
        assert "not counted: warm-up, unfinished" in words
        assert "at least 0.95" in words
