"""Log lines as text and JSON, and their way from a replica's file to the terminal."""

from __future__ import annotations

import ast
import io
import json
import logging
import logging.config
import logging.handlers
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray  # noqa: F401 - its record factory adds an attribute to every record

import hybridserve
from hybridserve.observability import logging as logs
from hybridserve.runtime.root_cause import root_cause
from hybridserve.settings.telemetry import TelemetrySection

LEVELS = ("debug", "info", "warning", "error", "exception", "critical")


SRC = Path(hybridserve.__file__).parent


def record(message: str, exc_info: Any = None, name: str = "hybridserve.access", **fields: Any) -> logging.LogRecord:
    return logging.getLogger(name).makeRecord(name, logging.INFO, "f.py", 1, message, (), exc_info, extra=fields)


def logged_events() -> Iterator[tuple[str, str, list[str]]]:
    """Place, event and field names of every logging call in src."""
    for file in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in (*LEVELS, "log") or ast.unparse(node.func.value) not in ("log", "logger"):
                continue
            place = f"{file.relative_to(SRC)}:{node.lineno}"
            level = 1 if node.func.attr == "log" else 0
            assert len(node.args) == level + 1, f"{place}: pass fields as extra"
            message = node.args[level]
            extra = next((keyword.value for keyword in node.keywords if keyword.arg == "extra"), ast.Dict([], []))
            assert isinstance(extra, ast.Dict), f"{place}: pass a literal dict as extra"
            messages = (message.body, message.orelse) if isinstance(message, ast.IfExp) else (message,)
            for event in messages:
                names = [ast.literal_eval(key) for key in extra.keys if key is not None]
                yield place, ast.literal_eval(event), names


EVENTS = list(logged_events())


def test_events_are_found() -> None:
    assert {"request", "scale", "scale_dry_run", "clock_moved_backwards"} <= {event for _, event, _ in EVENTS}


@pytest.mark.parametrize(("place", "event", "names"), EVENTS, ids=[f"{place}-{event}" for place, event, _ in EVENTS])
def test_every_event_keeps_its_fields(place: str, event: str, names: list[str]) -> None:
    assert re.fullmatch("[a-z]+(_[a-z]+)*", event)
    fields = {name: f"value of {name}" for name in names}
    made = record(event, **fields)  # raises KeyError where a field would overwrite an attribute of the record
    line = json.loads(logs.JsonFormatter().format(made))
    assert {name: line.pop(name) for name in names} == fields
    assert set(line) == {"time", "level", "logger", "event"}
    assert line["event"] == event
    text = logs.TextFormatter().format(made)
    assert text.endswith(f"event={event}" + "".join(f" {name}={value!r}" for name, value in fields.items()))


def test_json_keeps_types_and_text_quotes_only_where_needed() -> None:
    made = record("request", id="007", status=200, ms=1.5, tokens=None, reason="it's quoted text", folder="")
    line = json.loads(logs.JsonFormatter().format(made))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "logger": "hybridserve.access", "event": "request", "id": "007", "status": 200, "ms": 1.5,
        "tokens": None, "reason": "it's quoted text", "folder": "",
    }  # fmt: skip
    text = logs.TextFormatter().format(made).partition(" info hybridserve.access ")[2]
    assert text == "event=request id=007 status=200 ms=1.5 tokens=- reason=\"it's quoted text\" folder=''"


def test_foreign_lines_and_tracebacks_stay_on_one_json_line() -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        made = record("it broke, sadly", exc_info=sys.exc_info(), name="vllm.engine")
    text = logs.JsonFormatter().format(made)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "it broke, sadly"
    assert "ValueError: broken\nin two" in line["exception"]
    assert " info vllm.engine it broke, sadly\nTraceback" in logs.TextFormatter().format(made)


@pytest.fixture
def own_logger() -> Any:
    root = logging.getLogger("hybridserve")
    before = (root.handlers[:], root.level, root.propagate)
    root.handlers.clear()
    root.propagate = True  # pytest adds its own handlers to a logger that does not propagate, before each phase
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, root.propagate = before


def test_forwarder_copies_each_line_once_across_rotation(own_logger: logging.Logger, tmp_path: Path) -> None:
    stream = io.StringIO()
    forwarder = logs.LogForwarder(tmp_path, stream, every_s=0.01)
    forwarder.start()
    section = TelemetrySection(log_format="json", log_level="warning")
    logs.configure(section, {logs.LOG_DIR: str(tmp_path)})
    logs.configure(section, {logs.LOG_DIR: str(tmp_path)})
    own_logger.handlers[0].maxBytes = 2000  # type: ignore[attr-defined]
    log = logging.getLogger("hybridserve.access")
    log.info("below_the_level")
    for number in range(30):
        log.warning("counted", extra={"number": number})
        deadline = time.monotonic() + 10
        while stream.getvalue().count("\n") <= number and time.monotonic() < deadline:
            time.sleep(0.002)
    forwarder.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["number"] for line in lines] == list(range(30))
    assert len(list(tmp_path.glob("*.log.*"))) >= 1, "the file was rotated on the way"


def test_forwarder_ignores_a_closed_stream(tmp_path: Path) -> None:
    stream = io.StringIO()
    (tmp_path / "hybridserve-1.log").write_text("event=x\n")
    forwarder = logs.LogForwarder(tmp_path, stream, every_s=0.01)
    stream.close()
    forwarder.start()
    time.sleep(0.05)
    forwarder.stop()


def test_engine_log_level_keeps_prompts_out() -> None:
    """On debug vLLM's line on a request holds its prompt."""
    for log_requests, level in ((False, "DEBUG"), (True, "INFO")):
        config: Any = logs.engine_config(TelemetrySection(log_level="debug", log_requests=log_requests))
        assert config["loggers"]["vllm"]["level"] == level


def test_engine_config_writes_unprefixed_json(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As vLLM does in each of its processes.
    write = sys.stderr.write
    monkeypatch.setattr(sys.stderr, "write", lambda text: write(f"(EngineCore pid=1) {text}"))
    config = logs.engine_config(TelemetrySection(log_format="json"))
    config["loggers"] = {"vllm-test": config["loggers"]["vllm"]}  # type: ignore[index]
    logging.config.dictConfig(config)
    logging.getLogger("vllm-test.engine").info("GPU KV cache size: %s tokens", "1,024")
    line = json.loads(capfd.readouterr().err)
    assert line["message"] == "GPU KV cache size: 1,024 tokens"


def test_root_cause_is_found_in_json_lines() -> None:
    try:
        raise ValueError("max_num_seqs (256) exceeds available Mamba cache blocks (101)")
    except ValueError:
        failed = record("EngineCore failed to start.", sys.exc_info(), "vllm.engine")
    text = (
        f"{logs.JsonFormatter().format(failed)}\n{{no JSON\nRuntimeError: Engine core initialization failed. See above."
    )
    assert root_cause([text]) == "max_num_seqs (256) exceeds available Mamba cache blocks (101)"
