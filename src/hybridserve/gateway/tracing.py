"""One OpenTelemetry span a generation, where tracing is set up in this process; the engine's own span hangs below it.

vLLM sets the global tracer provider when it is given `otlp_traces_endpoint`. Without one this costs one look-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

Headers = list[tuple[bytes, bytes]]


class Spans:
    """Starts spans with the provider given, or the process's own once somebody sets one."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer: Tracer | None = None
        self._given = provider
        try:
            from opentelemetry import trace
        except ImportError:
            trace = None  # type: ignore[assignment]
        self._trace = trace

    def begin(self, name: str, headers: Headers) -> tuple[Span | None, Headers]:
        """A span under the caller's, and headers that make it the parent of what follows; None without tracing."""
        tracer = self._tracer or self._find()
        if tracer is None:
            return None, headers
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        carried = {key.decode(): value.decode("latin-1") for key, value in headers if key in _CONTEXT}
        span = tracer.start_span(name, propagator.extract(carried), SpanKind.SERVER)
        below: dict[str, str] = {}
        propagator.inject(below, set_span_in_context(span))
        kept = [pair for pair in headers if pair[0] not in _CONTEXT]
        return span, kept + [(key.encode(), value.encode("latin-1")) for key, value in below.items()]

    def _find(self) -> Tracer | None:
        trace = self._trace
        if trace is None:
            return None
        provider = self._given or trace.get_tracer_provider()
        if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            return None
        self._tracer = provider.get_tracer("hybridserve")
        return self._tracer


def end(span: Span, *, key: str, status: int, reason: str, tokens: int | None) -> None:
    """Close a span with how it went. Names and numbers only."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("http.response.status_code", status)
    span.set_attribute("hybridserve.key", key)
    if reason != "-":
        span.set_attribute("hybridserve.reason", reason)
    if tokens is not None:
        span.set_attribute("gen_ai.usage.total_tokens", tokens)
    if status >= 500 or (status < 400 and reason not in ("-", "client_gone")):
        span.set_status(Status(StatusCode.ERROR, reason))
    span.end()


_CONTEXT = (b"traceparent", b"tracestate")
