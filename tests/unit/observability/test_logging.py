"""Log lines as text and JSON, and their way from a replica's file to the terminal."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import logging.handlers
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hybridserve.observability import logging as logs
from hybridserve.runtime.root_cause import root_cause
from hybridserve.settings.telemetry import TelemetrySection


def record(message: str, *args: Any, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("hybridserve.access", logging.INFO, "f.py", 1, message, args, exc_info)


def test_pairs_become_fields() -> None:
    line = json.loads(
        logs.Json().format(record("event=request id=%s status=%d ms=%.1f tokens=%s", "007", 200, 1.5, "-"))
    )
    assert line["event"] == "request"
    assert line["id"] == "007", "an id is never a number"
    assert (line["status"], line["ms"], line["tokens"]) == (200, 1.5, "-")
    assert (line["level"], line["logger"]) == ("info", "hybridserve.access")
    assert line["time"].endswith("Z")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("event=x why='two words'", {"event": "x", "why": "two words"}),
        ('event=x why="it\'s"', {"event": "x", "why": "it's"}),
        ("event=x why=", {"event": "x", "why": ""}),
        ("not pairs at all", {}),
        ("event=x and then prose", {}),
        ("", {}),
    ],
)
def test_what_is_a_line_of_pairs(message: str, expected: dict[str, object]) -> None:
    assert logs.fields(message) == expected


def test_prose_and_tracebacks_are_kept_whole_on_one_line() -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError as error:
        text = logs.Json().format(record("it broke, sadly", exc_info=(type(error), error, error.__traceback__)))
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "it broke, sadly"
    assert "ValueError: broken\nin two" in line["exception"]


def test_text_is_one_line_with_its_time() -> None:
    assert logs.Text().format(record("event=x")).endswith("Z info hybridserve.access event=x")


@pytest.fixture
def own_logger() -> Any:
    root = logging.getLogger("hybridserve")
    before = (root.handlers[:], root.level, root.propagate)
    root.handlers.clear()
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, root.propagate = before


def test_lines_travel_from_the_file_to_the_stream_once_each(own_logger: logging.Logger, tmp_path: Path) -> None:
    stream = io.StringIO()
    forwarder = logs.Forwarder(tmp_path, stream, every_s=0.01)
    forwarder.start()
    section = TelemetrySection(log_format="json", log_level="warning")
    logs.configure(section, {logs.LOG_DIR: str(tmp_path)})
    logs.configure(section, {logs.LOG_DIR: str(tmp_path)})
    own_logger.handlers[0].maxBytes = 2000  # type: ignore[attr-defined]
    log = logging.getLogger("hybridserve.access")
    log.info("event=too_quiet")
    for number in range(30):
        log.warning("event=counted number=%d", number)
        time.sleep(0.012)
    forwarder.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["number"] for line in lines] == list(range(30))
    assert len(list(tmp_path.glob("*.log.*"))) >= 1, "the file was rotated on the way"


def test_a_stream_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    stream = io.StringIO()
    (tmp_path / "hybridserve-1.log").write_text("event=x\n")
    forwarder = logs.Forwarder(tmp_path, stream, every_s=0.01)
    stream.close()
    forwarder.start()
    time.sleep(0.05)
    forwarder.stop()


def test_the_engine_never_writes_prompts() -> None:
    """On debug vLLM's line on a request holds its prompt."""
    for log_requests, level in ((False, "DEBUG"), (True, "INFO")):
        config: Any = logs.engine_config(TelemetrySection(log_level="debug", log_requests=log_requests))
        assert config["loggers"]["vllm"]["level"] == level


def test_the_engine_speaks_the_same_form(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # As vLLM does in each of its processes.
    write = sys.stderr.write
    monkeypatch.setattr(sys.stderr, "write", lambda text: write(f"(EngineCore pid=1) {text}"))
    config = logs.engine_config(TelemetrySection(log_format="json"))
    config["loggers"] = {"vllm-test": config["loggers"]["vllm"]}  # type: ignore[index]
    logging.config.dictConfig(config)
    logging.getLogger("vllm-test.engine").info("GPU KV cache size: %s tokens", "1,024")
    line = json.loads(capfd.readouterr().err)
    assert line["message"] == "GPU KV cache size: 1,024 tokens"


def test_serves_log_survives_an_engine_that_configures_logging(tmp_path: Path) -> None:
    """Ray Serve asks the handler for its file when its controller comes back, and ends replicas that cannot say."""
    serve = logging.getLogger("ray.serve")
    file = logging.FileHandler(tmp_path / "replica.log")
    handler = logging.handlers.MemoryHandler(1, target=file)
    serve.addHandler(handler)
    try:
        with logs.serve_keeps_its_log():
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
            assert handler.target is None, "this is what it is for"
        assert handler.target is file
        serve.error("still here")
        assert "still here" in (tmp_path / "replica.log").read_text()
    finally:
        serve.removeHandler(handler)
        file.close()


def test_the_cause_of_a_failed_start_is_found_in_json_lines_too() -> None:
    try:
        raise ValueError("max_num_seqs (256) exceeds available Mamba cache blocks (101)")
    except ValueError:
        failed = record("EngineCore failed to start.", exc_info=sys.exc_info())
    text = f"{logs.Json().format(failed)}\n{{no JSON\nRuntimeError: Engine core initialization failed. See above."
    assert root_cause([text]) == "max_num_seqs (256) exceeds available Mamba cache blocks (101)"
