"""Our log lines: one an event, as key=value text or as JSON, on their way from every process to one place.

Lines are written as ``event=request id=... status=200``. Nothing in them is a key, a prompt or an answer.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

from hybridserve.settings.telemetry import TelemetrySection

# Folder that `serve` reads from. Without it lines go to standard error, which Ray keeps in a file for each worker.
LOG_DIR = "HYBRIDSERVE_LOG_DIR"
ENGINE_CONFIG = "VLLM_LOGGING_CONFIG_PATH"

_PAIR = re.compile(r"""(?P<name>\w+)=(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S*)(?:\s|$)""")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FILE_BYTES = 10 * 2**20


class Text(logging.Formatter):
    """``2026-11-24T09:00:00.000Z info hybridserve.access event=request ...``."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname.lower()} {record.name} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Json(logging.Formatter):
    """One JSON object a line. key=value messages become fields; any other message is the field `message`."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line: dict[str, object] = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line.update(fields(message) or {"message": message})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def fields(message: str) -> dict[str, object]:
    """The pairs of a key=value line; empty when it is not one from end to end."""
    found: dict[str, object] = {}
    at = 0
    while at < len(message):
        match = _PAIR.match(message, at)
        if match is None:
            return {}
        value = match["value"]
        if value[:1] in ("'", '"'):
            value = value[1:-1]
        number = match["name"] != "id" and _NUMBER.fullmatch(value) is not None
        found[match["name"]] = (float(value) if "." in value else int(value)) if number else value
        at = match.end()
    return found


def configure(section: TelemetrySection, environ: Mapping[str, str] = os.environ) -> None:
    """Send everything under the logger `hybridserve` of this process to its place. A second call changes nothing."""
    root = logging.getLogger("hybridserve")
    if root.handlers:
        return
    folder = environ.get(LOG_DIR)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handler = _Rotating(Path(folder) / f"hybridserve-{os.getpid()}.log", maxBytes=_FILE_BYTES, backupCount=2)
    handler.setFormatter(Json() if section.log_format == "json" else Text())
    root.addHandler(handler)
    root.setLevel(section.log_level.upper())
    root.propagate = False


def set_level(section: TelemetrySection) -> None:
    """Change the level of a process that `configure` has set up."""
    logging.getLogger("hybridserve").setLevel(section.log_level.upper())


def to_stderr() -> logging.Handler:
    """To the file that is standard error now. vLLM puts the process's name before whatever `sys.stderr` is given, and a
    line with that in front is no JSON any more.
    """
    return logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8"))


def engine_config(section: TelemetrySection) -> dict[str, object]:
    """vLLM's logging in the same form, for the file that ``VLLM_LOGGING_CONFIG_PATH`` names."""
    # On debug vLLM's lines on requests hold their prompts.
    level = "INFO" if section.log_requests and section.log_level == "debug" else section.log_level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": f"{__name__}.{'Json' if section.log_format == 'json' else 'Text'}"}},
        "handlers": {"err": {"()": f"{__name__}.to_stderr", "formatter": "ours"}},
        "loggers": {"vllm": {"handlers": ["err"], "level": level, "propagate": False}},
    }


class _Rotating(logging.handlers.RotatingFileHandler):
    """Asks for the file's size, where its parent formats every line twice and looks its path up: half of the cost."""

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802
        return self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self.maxBytes


class Forwarder:
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
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)

    def start(self) -> None:
        """Copy from now on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Copy what is left, and end."""
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join(5)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._copy()
        self._copy()

    def _copy(self) -> None:
        # A file that was rotated away keeps its inode: it is read to its end under its new name.
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
            except (OSError, ValueError):  # rotated away meanwhile, or nobody reads us any more: serving goes on
                continue


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


@contextmanager
def serve_keeps_its_log() -> Iterator[None]:
    """Keep the files behind Ray Serve's handlers while vLLM is imported.

    vLLM configures logging at import, and Python then closes every handler; a `MemoryHandler` forgets its file.
    Serve's controller asks each replica for the name of that file when it has been restarted, takes the failing
    answer for a broken replica and ends them all, with every stream.
    """
    handlers = [one for one in logging.getLogger("ray.serve").handlers if isinstance(one, MemoryHandler)]
    files = [(handler, handler.target) for handler in handlers]
    try:
        yield
    finally:
        for handler, file in files:
            handler.setTarget(file)  # which opens again with the next line
