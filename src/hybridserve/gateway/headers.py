"""Headers: request IDs, W3C trace context, and the lists of headers that pass the gateway in each direction."""

from __future__ import annotations

import re
import uuid

from hybridserve.gateway.types import RawHeaders

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: version ff and all-zero IDs are invalid.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
# What the app behind the gateway receives. vLLM reads further headers that choose a priority, an engine or a session
# (x-vllm-priority, x-data-parallel-rank, x-session-id), or that ask for its load.
_TO_APP = frozenset({
    b"host", b"accept", b"accept-encoding", b"content-type", b"content-length", b"transfer-encoding", b"user-agent",
    b"traceparent", b"tracestate", b"origin", b"access-control-request-method", b"access-control-request-headers",
})  # fmt: skip
# What a client receives of the app's headers. The gateway sets x-request-id itself.
_TO_CLIENT = frozenset({
    b"content-type", b"content-length", b"content-encoding", b"cache-control", b"retry-after", b"allow", b"vary",
    b"access-control-allow-origin", b"access-control-allow-methods", b"access-control-allow-headers",
    b"access-control-allow-credentials", b"access-control-expose-headers", b"access-control-max-age",
})  # fmt: skip


def first_header(headers: RawHeaders, name: bytes) -> bytes | None:
    """The first value of a header. ASGI passes names in lower case."""
    for key, value in headers:
        if key == name:
            return value
    return None


def content_length(headers: RawHeaders) -> int | None:
    """The declared length of the body; None if it is missing or malformed."""
    value = first_header(headers, b"content-length")
    return int(value) if value is not None and value.isdigit() else None


def with_content_length(headers: RawHeaders, length: int) -> list[tuple[bytes, bytes]]:
    """The headers for a body of `length` bytes."""
    kept = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]


def request_id(headers: RawHeaders) -> bytes:
    """The client's ``x-request-id`` if it is safe in logs and headers, else a new one."""
    value = first_header(headers, b"x-request-id")
    if value is not None and _REQUEST_ID.fullmatch(value):
        return value
    return uuid.uuid4().hex.encode()


def forwarded_headers(headers: RawHeaders, request_id: bytes) -> list[tuple[bytes, bytes]]:
    """Headers for the app: those on the list, with the request ID and without an invalid trace context."""
    result = [(b"x-request-id", request_id)]
    valid_trace = True
    for name, value in headers:
        if name == b"traceparent":
            valid_trace = _TRACEPARENT.fullmatch(value) is not None
        if name in _TO_APP:
            result.append((name, value))
    if not valid_trace:
        # A tracestate has no meaning without its traceparent.
        result = [(name, value) for name, value in result if name not in (b"traceparent", b"tracestate")]
    return result


def returned_headers(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """Of the app's response headers, those on the list, with names in lower case."""
    return [(name.lower(), value) for name, value in headers if name.lower() in _TO_CLIENT]
