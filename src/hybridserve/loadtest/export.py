"""Client-side measures for Prometheus, and files that other tools read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hybridserve.loadtest.metrics import Summary
from hybridserve.loadtest.request_record import Record

_LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


def serve(port: int, environment: Any) -> None:
    """Serve /metrics on this port, from the records of this worker as they come."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

    registry = CollectorRegistry()
    prefix = "hybridserve_loadtest_"
    requests = Counter(f"{prefix}requests", "Requests by how they ended.", ["kind", "outcome"], registry=registry)
    tokens = Counter(f"{prefix}tokens", "Tokens of whole answers.", ["kind", "direction"], registry=registry)
    histograms = {
        name: Histogram(f"{prefix}{name}_seconds", about, ["kind"], buckets=buckets, registry=registry)
        for name, about, buckets in (
            ("ttft", "From the intended start to the first token.", _LATENCY),
            ("tpot", "Per output token after the first.", _PER_TOKEN),
            ("e2e", "From the intended start to the last event.", _LATENCY),
            ("schedule_lag", "Between the intended start and the send.", _PER_TOKEN),
        )
    }
    users = Gauge(f"{prefix}users", "Users that locust runs.", registry=registry)

    def seen(record: Record | None = None, **_: Any) -> None:
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

    environment.events.request.add_listener(seen)
    start_http_server(port, "127.0.0.1", registry=registry)


def to_csv(records: Sequence[Record]) -> str:
    """One row a request, with the measures worked out."""
    out = io.StringIO()
    names = [name for name in asdict(records[0]) if name != "chunks"] if records else []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "ttft", "tpot", "e2e", "schedule_lag", "chunk_count"])
    for one in records:
        row = [getattr(one, name) for name in names]
        writer.writerow([*row, one.ttft, one.tpot, one.e2e, one.queued, len(one.chunks)])
    return out.getvalue()


def to_vllm_bench(records: Sequence[Record], summary: Summary, model: str) -> dict[str, Any]:
    """The keys of `vllm bench serve --save-result --save-detailed`, for tools that read those. Milliseconds there."""
    chosen = [one for one in records if not one.warm_up]
    found: dict[str, Any] = {
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
        "input_lens": [one.prompt_tokens for one in chosen],
        "output_lens": [one.output_tokens if one.ok else 0 for one in chosen],
        "ttfts": [one.ttft or 0.0 for one in chosen],
        "itls": [list(one.itls) for one in chosen],
        "start_times": [one.intended for one in chosen],
        "errors": ["" if one.ok else f"{one.outcome} {one.detail}".strip() for one in chosen],
    }
    for name, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el")):
        spread = getattr(summary, name)
        if spread is not None:
            found |= {f"mean_{theirs}_ms": spread.mean * 1000, f"median_{theirs}_ms": spread.p50 * 1000}
            found |= {f"p{rank}_{theirs}_ms": getattr(spread, f"p{rank}") * 1000 for rank in (90, 95, 99)}
    return found


def to_json(tree: Any) -> str:
    """Readable JSON with an end of line."""
    return json.dumps(tree, indent=2) + "\n"
