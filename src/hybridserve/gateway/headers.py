"""Request ids and W3C trace context: taken over where they are well formed, made or dropped where not."""

from __future__ import annotations

import re
import uuid

from hybridserve.gateway.types import RawHeaders

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header: version ff, and ids of zeros, are invalid.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_SECRETS = (b"authorization", b"x-api-key", b"proxy-authorization")


def request_id(given: bytes | None) -> bytes:
    """The client's own id where it is harmless in logs and headers, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex.encode()


def inner_headers(headers: RawHeaders, ident: bytes) -> list[tuple[bytes, bytes]]:
    """Headers as the app gets them: with the id, without secrets, without a broken trace context."""
    result = [(b"x-request-id", ident)]
    trace = True
    for name, value in headers:
        if name == b"traceparent":
            trace = _TRACEPARENT.fullmatch(value) is not None
        if name not in _SECRETS and name != b"x-request-id":
            result.append((name, value))
    if not trace:
        # A tracestate means nothing without its parent.
        result = [(name, value) for name, value in result if name not in (b"traceparent", b"tracestate")]
    return result
