"""Structured logging: one line per event, as key=value text or as JSON, from every process to one place.

The message of a record is the event's name and its fields are `extra`::

    logger.info("scale", extra={"from": 1, "to": 2})     # event=scale from=1 to=2

No field is ever a key, a prompt or a completion.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter as BaseJsonFormatter

from hybridserve.settings.telemetry import TelemetrySection

# Folder that `serve` reads from. Without it lines go to standard error, which Ray keeps in a file per worker.
LOG_DIR = "HYBRIDSERVE_LOG_DIR"
ENGINE_CONFIG = "VLLM_LOGGING_CONFIG_PATH"

# Attributes of a record that are no fields; the last one is set by Ray's record factory.
_RESERVED = frozenset((*RESERVED_ATTRS, "_ray_timestamp_ns"))
# How many attributes every record has; the fields come after them.
_STANDARD = len(logging.makeLogRecord({}).__dict__)
_FILE_BYTES = 10 * 2**20


class TextFormatter(logging.Formatter):
    """``2026-11-24T09:00:00.000Z info hybridserve.access event=request ...``."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name.startswith("hybridserve"):
            added = islice(record.__dict__.items(), _STANDARD, None)
            fields = [f" {key}={_quoted(value)}" for key, value in added if key not in _RESERVED]
            message = f"event={message}{''.join(fields)}"
        line = f"{_time(record)} {record.levelname.lower()} {record.name} {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(BaseJsonFormatter):
    """One JSON object per line; the message of a foreign record is the field `message`."""

    def __init__(self) -> None:
        super().__init__(
            [], json_ensure_ascii=False, rename_fields={"exc_info": "exception"}, reserved_attrs=list(_RESERVED)
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        message = "event" if record.name.startswith("hybridserve") else "message"
        log_data |= {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        log_data[message] = record.message
        super().add_fields(log_data, record, message_dict)


def _quoted(value: object) -> str:
    """A value of key=value text: `-` for None, quoted if it contains spaces or quotes."""
    if isinstance(value, int | float):
        return str(value)
    text = "-" if value is None else str(value)
    # A regular expression takes three times as long, at every request.
    plain = text and text.isprintable() and " " not in text and '"' not in text and "'" not in text
    return text if plain else repr(text)


def _time(record: logging.LogRecord) -> str:
    return f"{_seconds(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=1)
def _seconds(created: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))


def configure(section: TelemetrySection, environ: Mapping[str, str] = os.environ) -> None:
    """Set up the logger `hybridserve` of this process. A second call changes nothing."""
    root = logging.getLogger("hybridserve")
    if root.handlers:
        return
    folder = environ.get(LOG_DIR)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handler = _Rotating(Path(folder) / f"hybridserve-{os.getpid()}.log", maxBytes=_FILE_BYTES, backupCount=2)
    handler.setFormatter(JsonFormatter() if section.log_format == "json" else TextFormatter())
    root.addHandler(handler)
    root.propagate = False
    set_level(section)


def set_level(section: TelemetrySection) -> None:
    """Set the level of this process."""
    logging.getLogger("hybridserve").setLevel(section.log_level.upper())


def unprefixed_stderr() -> logging.Handler:
    """A handler for standard error itself: vLLM prefixes `sys.stderr` with the process name, which is no JSON."""
    return logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8"))


def engine_config(section: TelemetrySection) -> dict[str, object]:
    """vLLM's logging in the same format, for the file that ``VLLM_LOGGING_CONFIG_PATH`` names."""
    # At debug level vLLM logs the prompts of requests.
    level = "INFO" if section.log_requests and section.log_level == "debug" else section.log_level.upper()
    formatter = JsonFormatter if section.log_format == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"hybridserve": {"()": f"{__name__}.{formatter.__name__}"}},
        "handlers": {"stderr": {"()": f"{__name__}.{unprefixed_stderr.__name__}", "formatter": "hybridserve"}},
        "loggers": {"vllm": {"handlers": ["stderr"], "level": level, "propagate": False}},
    }


class _Rotating(logging.handlers.RotatingFileHandler):
    """Checks the size of the file; its parent formats every line twice and resolves its path: half of the cost."""

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802
        return self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self.maxBytes


class LogForwarder:
    """Copies the lines that other processes write into a folder to one stream, as they come.

    Args:
        folder: where `configure` writes in the other processes.
        stream: standard error of `serve`.
    """

    def __init__(self, folder: Path, stream: TextIO, every_s: float = 0.2) -> None:
        self._folder = folder
        self._stream = stream
        self._every_s = every_s
        self._read: dict[int, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)

    def start(self) -> None:
        """Start copying, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Copy what is left, and stop."""
        if self._thread.is_alive():
            self._stopped.set()
            self._thread.join(5)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._copy()
        self._copy()

    def _copy(self) -> None:
        # A rotated file keeps its inode: it is read to its end under its new name.
        for file in sorted(self._folder.glob("hybridserve-*.log*"), key=lambda file: len(file.name), reverse=True):
            try:
                with file.open("rb") as lines:
                    inode = os.fstat(lines.fileno()).st_ino
                    lines.seek(self._read.get(inode, 0))
                    chunk = lines.read()
                end = chunk.rfind(b"\n") + 1
                self._read[inode] = self._read.get(inode, 0) + end
                self._stream.write(chunk[:end].decode(errors="replace"))
                self._stream.flush()
            except (OSError, ValueError):  # rotated away meanwhile, or the stream is closed: serving continues
                continue
