"""Section `telemetry`: logs, metrics and service level objectives."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from hybridserve.settings.section import Section
from hybridserve.validation import refused

# Buckets of the engine's histograms (vLLM 0.29), in seconds: a target between two of them cannot be counted.
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
               80.0, 160.0, 640.0, 2560.0)  # fmt: skip
INTER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
                      40.0, 80.0)  # fmt: skip


class TelemetrySection(Section):
    """Logs, metrics and service level objectives."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""
    log_format: Literal["text", "json"] = "text"
    """key=value lines, or one JSON object per line."""
    log_requests: bool = False
    """Ray Serve and the engine also log each request with its id; the gateway always does. Prompts are never logged."""
    otlp_endpoint: str | None = Field(default=None, pattern="^https?://")
    """Address that the gateway and the engine send spans to: http://collector:4317 (gRPC), or an OTLP/HTTP address with
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf. Empty: no tracing."""
    metrics_host: str = "127.0.0.1"
    """Address that each replica's metrics port binds to; 0.0.0.0 in a pod, so that Prometheus can reach it."""
    metrics_port: int = Field(default=9464, ge=0, le=65535)
    """First metrics port of a machine; each replica and the autoscaler use the next free one. 0: none."""
    cache_trace_dir: Path | None = None
    """Folder in which each replica records its requests for `hybridserve cache explain`: sizes and hashes, no text; at
    most 64 MiB each. Empty: nothing is recorded."""
    targets_dir: Path | None = None
    """Folder for their target files, for Prometheus' file_sd_configs."""
    namespace: str = Field(default="local", min_length=1)
    """Label `namespace` of those targets. In Kubernetes Prometheus sets its own."""
    slo_ttft_s: float = Field(default=2.5, gt=0)
    """Target for the time to first token in the engine, in seconds; a bucket of the engine's histogram."""
    slo_ttft: float = Field(default=0.95, gt=0, lt=1)
    """Share of requests that must meet the time to first token."""
    slo_inter_token_s: float = Field(default=0.05, gt=0)
    """Target for the mean time per output token of a request, in seconds; a bucket of the engine's histogram."""
    slo_inter_token: float = Field(default=0.95, gt=0, lt=1)
    """Share of requests that must meet the time per output token."""
    slo_availability: float = Field(default=0.999, gt=0, lt=1)
    """Share of requests without a server error."""
    slo_attainment: float = Field(default=0.9, gt=0, lt=1)
    """Share of requests that must meet both latency targets."""
    slo_days: int = Field(default=30, ge=1, le=90)
    """Period of the error budget, in days."""

    @model_validator(mode="after")
    def _countable(self) -> Self:
        for name, buckets in (("slo_ttft_s", TTFT_BUCKETS), ("slo_inter_token_s", INTER_TOKEN_BUCKETS)):
            value = getattr(self, name)
            if value not in buckets:
                below = [bucket for bucket in buckets if bucket < value][-1:]
                above = [bucket for bucket in buckets if bucket > value][:1]
                near = " or ".join(f"{bucket:g}" for bucket in below + above)
                what = f"{name} {value:g} is not a bucket of the engine's histogram and cannot be counted"
                raise refused(what, f"set telemetry.{name} to {near}", name)
        return self
