"""Finds the root cause in a chain of tracebacks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

# "ValueError: max_num_seqs (256) exceeds ..." possibly behind vLLM's log prefix "(EngineCore pid=1) ERROR ... ]".
_RAISED = re.compile(r"(?:^|\] )(?P<kind>(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Refused|Fault)): (?P<message>.+)$")
# Errors that an outer process raises about an inner one, without the cause.
_WRAPPERS = (
    "RayTaskError",
    "ActorDiedError",
    "Engine core initialization failed",
    "WorkerProc initialization failed",
)


def root_cause(messages: Iterable[str]) -> str:
    """Message of the innermost specific error in the texts of tracebacks.

    Ray puts the replica's traceback into the deployment's message; the first error raised in it is the cause, later
    errors only wrap it.
    """
    text = "\n".join(_plain(line) for message in messages for line in message.splitlines())
    raised = [match["message"].strip() for line in text.splitlines() if (match := _RAISED.search(line.strip()))]
    # Serve raises the text of a traceback as the message of another error.
    raised = [line for line in raised if not line.startswith("Traceback")]
    specific = [line for line in raised if not any(wrapper in line for wrapper in _WRAPPERS)]
    if specific:
        return specific[0]
    return raised[0] if raised else " ".join(text.split())[-500:] or "the process gave no reason"


def _plain(line: str) -> str:
    """A line of a JSON log as it would be in a text log; any other line unchanged."""
    if not line.startswith("{"):
        return line
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    return "\n".join(str(fields[name]) for name in ("event", "message", "exception") if name in fields)
