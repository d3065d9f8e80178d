"""The streaming client: geventhttpclient, one connection for each user, a time stamp for each line as it arrives.

Nothing is parsed during a stream. locust's own `iter_lines` reads blocks of 1024 bytes, which at 200 bytes a token
reports five tokens as one; `readline` returns each line when it is complete.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any
from urllib.parse import urlsplit

from gevent.socket import timeout as socket_timeout  # type: ignore[import-untyped]
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError

from hybridserve.loadtest.prompts import PromptRequest
from hybridserve.loadtest.request_record import Outcome, Record
from hybridserve.loadtest.stream import Stream, parse_stream

_BLOCK = 16 * 1024
# Offset between the clocks: durations come from the monotonic clock.
_ANCHOR = time() - perf_counter()

_BY_STATUS = {
    401: Outcome.DENIED,
    403: Outcome.DENIED,
    413: Outcome.LIMIT,
    429: Outcome.LIMIT,
    503: Outcome.UNAVAILABLE,
}
_BY_CODE = {"guard_blocked": Outcome.GUARD, "guard_unavailable": Outcome.GUARD_DOWN}


def now() -> float:
    """Monotonic time as seconds since the epoch."""
    return perf_counter() + _ANCHOR


@dataclass(slots=True)
class Answer:
    """A record, and the text for the next turn."""

    record: Record
    text: str = ""


class StreamingClient:
    """Sends one request at a time to one server.

    Args:
        url: such as http://host:port, with or without a path before /v1.
        key: sent as a bearer token.
        timeout: seconds without data after which a request fails.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 120.0, worker: int = 0) -> None:
        self._base = urlsplit(url).path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._worker = worker
        tls: dict[str, Any] = {"ssl_context_factory": lambda: _TLS} if url.startswith("https") else {}
        self._http = HTTPClient.from_url(
            url, concurrency=1, connection_timeout=min(timeout, 30.0), network_timeout=timeout, block_size=_BLOCK, **tls
        )

    def close(self) -> None:
        self._http.close()

    def send(self, request: PromptRequest, intended: float | None = None, **about: Any) -> Answer:
        """Send a request and read the whole answer. Never raises for what a server does.

        Args:
            request: what to send.
            intended: when it was due, seconds since the epoch; None for now.
            about: further fields of the record.
        """
        lines: list[tuple[float, bytes]] = []
        sent = perf_counter()
        status, fault, detail, after = 0, None, "", None
        try:
            response = self._post(request)
            status = response.status_code
            if status == 200:
                readline = response.readline
                append = lines.append
                while line := readline(b"\n"):
                    if len(line) > 2:
                        append((perf_counter() - sent, line))
            else:
                fault, detail = _error_outcome(status, response.read())
                after = _seconds(response.get("retry-after"))
        except socket_timeout:
            fault = Outcome.TIMEOUT_IDLE if lines else Outcome.TIMEOUT_FIRST
        except (OSError, HTTPParseError) as error:
            fault = Outcome.CUT if status == 200 else Outcome.CONNECT
            detail = type(error).__name__ if not str(error) else str(error)[:120]
        ended = perf_counter() - sent
        stream = parse_stream(lines)
        if fault is None or (fault is Outcome.CUT and stream.error):
            fault, detail = _stream_outcome(stream, request)
        if fault is Outcome.OK and request.expected is Outcome.GUARD:
            fault, detail = Outcome.NOT_BLOCKED, request.excerpt
        start = sent + _ANCHOR
        record = Record(
            intended=start if intended is None else intended,
            sent=start,
            end=stream.end if fault is Outcome.OK and stream.end is not None else ended,
            outcome=fault,
            expected=request.expected,
            kind=request.kind,
            turn=request.turn,
            conversation=request.conversation,
            chunks=tuple(stream.chunks),
            first_answer=stream.first_answer,
            prompt_tokens=stream.prompt_tokens,
            cached_tokens=stream.cached_tokens,
            output_tokens=stream.output_tokens,
            reasoning_tokens=stream.reasoning_tokens,
            usage=stream.usage is not None,
            finish_reason=stream.finish_reason,
            status=status,
            retry_after=after,
            detail=detail,
            worker=self._worker,
            **about,
        )
        return Answer(record, "".join(stream.text))

    def _post(self, request: PromptRequest) -> Any:
        """Retry once on a new connection: an idle connection that the server closed is not a failure of the service."""
        try:
            return self._http.request("POST", self._base + request.path, request.body, self._headers)
        except (HTTPConnectionClosed, BrokenPipeError, ConnectionResetError):
            return self._http.request("POST", self._base + request.path, request.body, self._headers)


def _stream_outcome(stream: Stream, request: PromptRequest) -> tuple[Outcome, str]:
    """The outcome of a stream with status 200."""
    if stream.error is not None:
        code = stream.error.get("code")
        return _BY_CODE.get(str(code), Outcome.IN_BAND), str(code)
    if stream.finish_reason is None or not stream.done:
        return Outcome.CUT, "no finish reason" if stream.finish_reason is None else "no [DONE]"
    if not stream.chunks:
        return Outcome.EMPTY, ""
    if request.exact is not None and stream.usage is not None and stream.output_tokens != request.exact:
        return Outcome.LENGTH, f"{stream.output_tokens} of {request.exact} tokens"
    if request.budget is not None and stream.reasoning_tokens > request.budget:
        return Outcome.OVERRUN, f"{stream.reasoning_tokens} reasoning tokens"
    if request.tool and not stream.tool_calls_are_json:
        return Outcome.BAD_TOOL, ""
    return Outcome.OK, ""


def _error_outcome(status: int, body: bytes) -> tuple[Outcome, str]:
    message = ""
    try:
        error = json.loads(body)["error"]
        code = str(error.get("code") or error.get("type") or "") if isinstance(error, Mapping) else str(error)
        message = str(error.get("message") or "") if isinstance(error, Mapping) else ""
    except (ValueError, KeyError, TypeError):
        code = ""
    outcome = _BY_CODE.get(code) or _BY_STATUS.get(status)
    outcome = outcome or (Outcome.HTTP_5XX if status >= 500 else Outcome.HTTP_4XX)
    detail = f"HTTP {status} {code}".strip()[:120]
    # Only of requests that the server refuses as they are, up to a line's end: what follows may quote the request.
    said = message.splitlines()[0][:160] if outcome is Outcome.HTTP_4XX and message else ""
    return outcome, f"{detail}: {said}" if said else detail


def _seconds(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# Made once: reading the system's certificates takes tens of milliseconds.
_TLS = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
