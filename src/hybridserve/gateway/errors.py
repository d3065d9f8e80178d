"""API errors in OpenAI's or Anthropic's format, and removal of tracebacks from the engine's own errors."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from hybridserve.gateway.types import RawHeaders, Send

ErrorFormat = Literal["openai", "anthropic"]

ENGINE_FAILED = "The engine failed on this request."
# Status to the error's `type` and default `code`.
_DEFAULTS = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "not_allowed"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("timeout_error", "timeout"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("service_unavailable_error", "engine_unavailable"),
}
# Anthropic's types: https://docs.anthropic.com/en/api/errors, read 2026-11-26
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_TRACEBACK_MARKS = ("Traceback (most recent call last)", 'File "', "ray::", "site-packages")
_MAX_MESSAGE_CHARS = 2000
_NAME = re.compile(r"[\w.\[\]-]{1,128}")


class APIError(Exception):
    """A request that the gateway rejects, with the response that the client gets.

    Args:
        reason: label of the metric `hybridserve_requests_rejected_total`; the code by default.
        retry_after_s: seconds after which a retry may succeed.
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
        self.reason = reason or code
        self.retry_after_s = retry_after_s
        self._error = _error(status, code, message, param, extra or {})

    def event(self, error_format: ErrorFormat) -> bytes:
        """The error as the last event of a stream. No ``[DONE]`` follows: the stream is incomplete."""
        return error_event(_body(self.status, self._error, error_format), error_format)

    async def send(self, send: Send, headers: RawHeaders, error_format: ErrorFormat) -> None:
        """Send the whole error response with these additional headers."""
        extra: list[tuple[bytes, bytes]] = []
        if self.retry_after_s is not None:
            extra.append((b"retry-after", str(max(1, round(self.retry_after_s + 0.5))).encode()))
        if self.status == 401:
            extra.append((b"www-authenticate", b'Bearer realm="hybridserve"'))
        body = _dump(_body(self.status, self._error, error_format))
        await send_json(send, self.status, body, [*extra, *headers])


async def send_json(send: Send, status: int, body: bytes, headers: RawHeaders = ()) -> None:
    """Send a whole JSON response."""
    length = str(len(body)).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


def clean_error(status: int, body: bytes, error_format: ErrorFormat) -> bytes:
    """The body of an error response of the app, without a traceback; arguments as for `read_error`."""
    return error_body(status, read_error(status, body), error_format)


def read_error(status: int, body: bytes) -> dict[str, Any]:
    """The error object of an error response of the app, without a traceback.

    Args:
        status: 400 or more.
        body: the app's response body: OpenAI's or Anthropic's format, FastAPI's ``detail``, or plain text.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = {"error": body.decode("utf-8", "replace").strip()}
    inner = answer.get("error", answer.get("detail", answer)) if isinstance(answer, dict) else None
    return _cleaned(status, inner, "error")


def error_body(status: int, error: dict[str, Any], error_format: ErrorFormat) -> bytes:
    """An error object as a response body."""
    return _dump(_body(status, error, error_format))


def clean_error_event(payload: dict[str, Any], error_format: ErrorFormat) -> bytes:
    """An error event of the app's stream, without a traceback."""
    inner = payload.get("error")
    inner = inner if isinstance(inner, dict) else {"message": str(inner)}
    code = inner.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return error_event(_body(status, _cleaned(status, inner, "engine_error"), error_format), error_format)


def error_event(body: dict[str, Any], error_format: ErrorFormat) -> bytes:
    """The event of a stream with this error body."""
    name = b"event: error\n" if error_format == "anthropic" else b""
    return name + b"data: " + _dump(body) + b"\n\n"


def _body(status: int, error: dict[str, Any], error_format: ErrorFormat) -> dict[str, Any]:
    if error_format == "openai":
        return {"error": error}
    kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {**error, "type": kind}}


def _cleaned(status: int, inner: object, fallback_code: str) -> dict[str, Any]:
    fields = inner if isinstance(inner, dict) else {"message": inner}
    code, message = fields.get("code"), fields.get("message")
    # A code and a parameter are names; anything else could carry text.
    if not (isinstance(code, str) and _NAME.fullmatch(code) and not code.isdigit()):
        code = _DEFAULTS.get(status, ("", fallback_code))[1]
    message = message if isinstance(message, str) else ""
    if status == 500 or any(mark in message for mark in _TRACEBACK_MARKS):
        message = ENGINE_FAILED
    param = fields.get("param")
    param = param if isinstance(param, str) and _NAME.fullmatch(param) else None
    return _error(status, code, message[:_MAX_MESSAGE_CHARS] or "The request failed.", param, {})


def _error(status: int, code: str, message: str, param: object, extra: dict[str, Any]) -> dict[str, Any]:
    default = "server_error" if status >= 500 else "invalid_request_error"
    kind = _DEFAULTS.get(status, (default, ""))[0]
    return {"message": message, "type": kind, "param": param, "code": code, **extra}


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
