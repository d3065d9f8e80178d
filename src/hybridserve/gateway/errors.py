"""What the door says itself: refusals in OpenAI's error body, and the cleaning of other people's errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hybridserve.gateway.types import RawHeaders, Send

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    503: "engine_unavailable",
}
_TRACES = ("Traceback (most recent call last)", 'File "', "ray::", "site-packages")
ENGINE_FAILED = "The engine failed on this request."


class APIError(Exception):
    """A request that goes no further, with the answer its client gets.

    Args:
        reason: label of the metric `hybridserve_requests_rejected_total`.
        retry_after_s: seconds after which asking again may help.
        extra: further fields of the error object.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        reason: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.reason = reason or code
        self.param = param
        self.retry_after_s = retry_after_s
        self.extra = extra or {}

    def error(self) -> dict[str, Any]:
        """The value of ``error`` in the body."""
        return _error(self.status, self.code, self.message, self.param, self.extra)

    def body(self) -> bytes:
        return _dump({"error": self.error()})

    def event(self) -> bytes:
        """The same as the last event of a stream. No ``[DONE]`` follows: this stream did not end, it was ended."""
        return b"data: " + self.body() + b"\n\n"

    async def send(self, send: Send, headers: RawHeaders) -> None:
        extra: list[tuple[bytes, bytes]] = []
        if self.retry_after_s is not None:
            extra.append((b"retry-after", str(max(1, round(self.retry_after_s + 0.5))).encode()))
        if self.status == 401:
            extra.append((b"www-authenticate", b'Bearer realm="hybridserve"'))
        await send_json(send, self.status, self.body(), [*extra, *headers])


async def send_json(send: Send, status: int, body: bytes, headers: RawHeaders = ()) -> None:
    """One whole JSON answer."""
    start = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


def clean_error(status: int, body: bytes) -> bytes:
    """The body of an error from further in, as an OpenAI error that holds no traceback.

    Args:
        status: 400 or more.
        body: what the app answered: OpenAI's form, FastAPI's ``detail``, or plain text.
    """
    code, message, param = _CODES.get(status, "error"), "", None
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        message = body.decode("utf-8", "replace").strip()
    else:
        if isinstance(answer, dict):
            inner = answer.get("error", answer.get("detail", answer))
            if isinstance(inner, dict):
                message = inner.get("message") or ""
                param = inner.get("param")
                given = inner.get("code")
                code = given if isinstance(given, str) and given and not given.isdigit() else code
            elif isinstance(inner, str):
                message = inner
    return _dump({"error": _error(status, code, _scrub(status, message), param, {})})


def clean_event(payload: dict[str, Any]) -> dict[str, Any]:
    """An error event of a stream without traceback."""
    inner = payload.get("error")
    inner = inner if isinstance(inner, dict) else {"message": str(inner)}
    given = inner.get("code")
    status = given if isinstance(given, int) and 400 <= given < 600 else 500
    code = given if isinstance(given, str) and not given.isdigit() else _CODES.get(status, "engine_error")
    return {"error": _error(status, code, _scrub(status, inner.get("message")), inner.get("param"), {})}


def _scrub(status: int, message: object) -> str:
    text = message if isinstance(message, str) else ""
    if status == 500 or any(mark in text for mark in _TRACES):
        return ENGINE_FAILED
    return text[:2000] or "The request failed."


def _error(status: int, code: str, message: str, param: object, extra: dict[str, Any]) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"message": message, "type": kind, "param": param, "code": code, **extra}


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def first_header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a header; ASGI gives names in lower case."""
    for key, value in headers:
        if key == name:
            return value
    return None
