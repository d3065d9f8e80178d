"""One OpenTelemetry span for each generation, if tracing is configured in this process; the engine's span is its child.

vLLM sets the global tracer provider when it gets `otlp_traces_endpoint`. Without a provider this costs one lookup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

Headers = list[tuple[bytes, bytes]]

_CONTEXT_HEADERS = (b"traceparent", b"tracestate")


class RequestTracer:
    """Starts spans with the given provider, or with the process's own as soon as one is set."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer: Tracer | None = None
        self._provider = provider
        try:
            from opentelemetry import trace
        except ImportError:
            trace = None  # type: ignore[assignment]
        self._trace = trace

    def begin(self, name: str, headers: Headers) -> tuple[Span | None, Headers]:
        """A span below the caller's, and the headers that make it the parent of the engine's; None without tracing."""
        tracer = self._tracer or self._find_tracer()
        if tracer is None:
            return None, headers
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        carrier = {key.decode(): value.decode("latin-1") for key, value in headers if key in _CONTEXT_HEADERS}
        span = tracer.start_span(name, propagator.extract(carrier), SpanKind.SERVER)
        child: dict[str, str] = {}
        propagator.inject(child, set_span_in_context(span))
        kept = [pair for pair in headers if pair[0] not in _CONTEXT_HEADERS]
        return span, kept + [(key.encode(), value.encode("latin-1")) for key, value in child.items()]

    def _find_tracer(self) -> Tracer | None:
        trace = self._trace
        if trace is None:
            return None
        provider = self._provider or trace.get_tracer_provider()
        if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            return None
        self._tracer = provider.get_tracer("hybridserve")
        return self._tracer


def end_span(span: Span, *, key: str, status: int, reason: str, tokens: int | None) -> None:
    """Close a span with the outcome of its request: names and numbers only."""
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
