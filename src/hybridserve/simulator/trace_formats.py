"""Reads public traces in the form that their publishers give them, and the gateway's own log."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hybridserve.errors import ConfigError

HEADER = ("time", "prompt", "output")
# Columns of time, prompt tokens and output tokens.
COLUMNS = (
    HEADER,
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),  # github.com/Azure/AzurePublicDataset, LLM inference 2023, 2024
    ("Timestamp", "Request tokens", "Response tokens"),  # github.com/HPMLL/BurstGPT
)
# Milliseconds; github.com/kvcache-ai/Mooncake, FAST25-release/traces.
JSON_FIELDS = ("timestamp", "input_length", "output_length")

NO_OUTPUT = "without output tokens"
"""Reason: the engine reported no tokens of a request that was answered."""


def rows(text: str, where: str, left_out: Counter[str] | None = None) -> Iterator[tuple[int, Any, Any, Any]]:
    """Line number, time, prompt tokens and output tokens of each request, as they are written.

    The time is in seconds, from any origin. Requests without output (refused, or failed) are left out of public traces;
    in a CSV with this package's own header they are an error.

    Args:
        left_out: gets the number of requests that are left out, by reason.

    Raises:
        ConfigError: the columns are those of no known format, or a line is not JSON.
    """
    lines = text.splitlines()
    left_out = Counter() if left_out is None else left_out
    requests = sorted(_access_log(lines, left_out))
    if requests:
        yield from ((number, at, prompt, output) for at, number, prompt, output in requests)
        return
    if lines and lines[0].startswith("{"):
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                at, prompt, output = (row[name] for name in JSON_FIELDS)
            except (ValueError, KeyError, TypeError):
                fields = ", ".join(JSON_FIELDS)
                raise ConfigError(
                    f"{where}:{number}",
                    f"is not JSON with the fields {fields}",
                    "correct it, or use a CSV with the header time,prompt,output",
                ) from None
            if output:
                yield number, at / 1000, prompt, output
            else:
                left_out[NO_OUTPUT] += 1
        return
    reader = csv.DictReader(lines)
    for columns in COLUMNS:
        if set(columns) <= set(reader.fieldnames or ()):
            break
    else:
        missing = ", ".join(column for column in HEADER if column not in (reader.fieldnames or ()))
        raise ConfigError(where, f"has no column {missing}", f"use the header {','.join(HEADER)}")
    own = columns == HEADER
    for row in reader:
        at, prompt, output = (row[column] for column in columns)
        if own or output not in ("0", "0.0", ""):
            yield reader.line_num, _seconds(at), prompt, output
        else:
            left_out[NO_OUTPUT] += 1


# A line of the gateway's log: key=value text, and JSON. Something may come before it, such as the name of a pod.
_TEXT_LINE = re.compile(r"(\S+) info hybridserve\.access event=request (.*)")
_JSON_LINE = re.compile(r'\{.*"logger": ?"hybridserve\.access".*\}')
# The service's own requests are logged at debug level; versions before 0.2 had this name for their key.
_INTERNAL_KEY = "canary"


def _access_log(lines: Sequence[str], left_out: Counter[str]) -> Iterator[tuple[float, int, int, int]]:
    """Arrival, line number, prompt and output tokens of each request in a gateway's log; other lines are left out.

    A line is written when the response ends, `ms` after the request came. Requests without both counts generated
    nothing, or were cut off: they are counted in `left_out`. Requests of the service itself, and those of routes that
    never generate text (a list of models, metrics), are no demand.
    """
    written = [(number, line) for number, line in enumerate(lines, 1) if "hybridserve.access" in line]
    if not written:
        return
    from hybridserve.gateway.auth.routes import GENERATING_ROUTES  # imports the whole gateway: not for other traces

    for number, line in written:
        fields: dict[str, Any] = {}
        if found := _TEXT_LINE.search(line):
            fields = dict(pair.partition("=")[::2] for pair in found[2].split())
            fields |= {"time": found[1], "event": "request"}
        elif found := _JSON_LINE.search(line):
            with suppress(ValueError):
                fields = json.loads(found[0])
            if fields.get("level") == "debug":
                continue
        if fields.get("event") != "request" or fields.get("key") == _INTERNAL_KEY:
            continue
        if "route" in fields and str(fields["route"]) not in GENERATING_ROUTES:
            continue
        try:
            ended = datetime.fromisoformat(fields["time"]).timestamp()
            at, prompt, output = ended - float(fields["ms"]) / 1000, fields["prompt_tokens"], fields["output_tokens"]
            if int(output) > 0:
                yield at, number, int(prompt), int(output)
                continue
        except (KeyError, ValueError, TypeError):  # without counts
            pass
        status = str(fields.get("status", 200))
        left_out[NO_OUTPUT if status == "200" else f"status {status}"] += 1


def _seconds(text: str | None) -> Any:
    """Seconds of a number, or of a date (of UTC where it names no zone); digits after microseconds are dropped."""
    if text is None or text.replace(".", "").isdigit():
        return text
    try:
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        return at.replace(tzinfo=at.tzinfo or UTC).timestamp()
    except ValueError:
        return text
