"""Client-side metrics for Prometheus, and files for other tools."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.request_record import Record

_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


def serve(port: int, environment: Any) -> None:
    """Serve /metrics with the records of this worker."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

    registry = CollectorRegistry()
    prefix = "hybridserve_loadtest_"
    requests = Counter(f"{prefix}requests", "Requests by outcome.", ["kind", "outcome"], registry=registry)
    tokens = Counter(f"{prefix}tokens", "Tokens of complete answers.", ["kind", "direction"], registry=registry)
    histograms = {
        name: Histogram(f"{prefix}{name}_seconds", about, ["kind"], buckets=buckets, registry=registry)
        for name, about, buckets in (
            ("ttft", "Time from the intended start to the first token.", _LATENCY),
            ("tpot", "Time per output token after the first.", _PER_TOKEN),
            ("e2e", "Time from the intended start to the last event.", _LATENCY),
            ("schedule_lag", "Time from the intended start to the send.", _PER_TOKEN),
        )
    }
    users = Gauge(f"{prefix}users", "Users of locust.", registry=registry)

    def observe(record: Record | None = None, **_: Any) -> None:
        if record is None or record.warm_up:
            return
        users.set(environment.runner.user_count)
        requests.labels(record.kind, record.outcome).inc()
        values = {"e2e": record.e2e, "schedule_lag": record.queued, "ttft": record.ttft, "tpot": record.tpot}
        for name, value in values.items():
            if value is not None and (record.ok or name == "schedule_lag"):
                histograms[name].labels(record.kind).observe(value)
        if record.ok:
            tokens.labels(record.kind, "in").inc(record.prompt_tokens)
            tokens.labels(record.kind, "out").inc(record.output_tokens)

    environment.events.request.add_listener(observe)
    start_http_server(port, "127.0.0.1", registry=registry)


def to_csv(records: Sequence[Record]) -> str:
    """One row for each request, with its measures."""
    out = io.StringIO()
    names = [name for name in asdict(records[0]) if name != "chunks"] if records else []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "ttft", "tpot", "e2e", "schedule_lag", "chunk_count"])
    for record in records:
        row = [getattr(record, name) for name in names]
        writer.writerow([*row, record.ttft, record.tpot, record.e2e, record.queued, len(record.chunks)])
    return out.getvalue()


def to_vllm_bench(records: Sequence[Record], summary: Summary, model: str) -> dict[str, Any]:
    """The result of `vllm bench serve --save-result --save-detailed`, for tools that read it. Times in milliseconds."""
    chosen = [record for record in records if not record.warm_up]
    result: dict[str, Any] = {
        "backend": "openai",
        "model_id": model,
        "num_prompts": summary.attempted,
        "duration": summary.duration,
        "completed": summary.completed,
        "failed": summary.attempted - summary.completed,
        "total_input_tokens": summary.prompt_tokens,
        "total_output_tokens": summary.output_tokens,
        "request_throughput": summary.request_throughput,
        "request_goodput": summary.goodput,
        "output_throughput": summary.output_throughput,
        "total_token_throughput": summary.total_throughput,
        "input_lens": [record.prompt_tokens for record in chosen],
        "output_lens": [record.output_tokens if record.ok else 0 for record in chosen],
        "ttfts": [record.ttft or 0.0 for record in chosen],
        "itls": [list(record.itls) for record in chosen],
        "start_times": [record.intended for record in chosen],
        "errors": ["" if record.ok else f"{record.outcome} {record.detail}".strip() for record in chosen],
    }
    for name, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el")):
        spread = getattr(summary, name)
        if spread is not None:
            result |= {f"mean_{theirs}_ms": spread.mean * 1000, f"median_{theirs}_ms": spread.p50 * 1000}
            result |= {f"p{rank}_{theirs}_ms": spread.percentile(rank) * 1000 for rank in (90, 95, 99)}
    return result
