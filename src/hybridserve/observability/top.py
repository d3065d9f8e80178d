"""The data of `hybridserve top`: one row per replica, from Prometheus or from the replicas' metrics ports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from prometheus_client.samples import Sample

from hybridserve.errors import ServiceError
from hybridserve.observability.metrics_server import PORTS
from hybridserve.observability.prometheus_api import Prometheus
from hybridserve.observability.replica_ports import not_a_replica, one_line, read_samples

# Name: metric, labels, and whether it is a counter whose rate per second is shown.
_NUMBERS: dict[str, tuple[str, Mapping[str, str], bool]] = {
    "slots_used": ("hybridserve_state_slots_used", {}, False),
    "slots": ("hybridserve_state_slots", {}, False),
    "state_blocks": ("hybridserve_kv_cache_blocks_used", {"type": "state"}, False),
    "attention_blocks": ("hybridserve_kv_cache_blocks_used", {"type": "attention"}, False),
    "blocks": ("hybridserve_kv_cache_blocks", {}, False),
    "running": ("vllm:num_requests_running", {}, False),
    "waiting": ("vllm:num_requests_waiting", {}, False),
    "tokens_per_s": ("vllm:generation_tokens_total", {}, True),
    "requests_per_s": ("vllm:request_success_total", {}, True),
    "reused_per_s": ("hybridserve_prefix_hit_tokens_total", {}, True),
    "reusable_per_s": ("hybridserve_prefix_reusable_tokens_total", {}, True),
    "plan_differences": ("hybridserve_plan_mismatched_fields", {}, False),
    "failed_findings": ("hybridserve_compliance_findings", {"severity": "error", "status": "FAIL"}, False),
    "draining": ("hybridserve_draining", {}, False),
}
_TTFT = "vllm:time_to_first_token_seconds"


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One replica now. Rates and the mean time to first token are over the last interval; None if unknown."""

    replica: str
    model: str
    slots_used: float | None
    slots: float | None
    state_blocks: float | None
    attention_blocks: float | None
    blocks: float | None
    running: float | None
    waiting: float | None
    tokens_per_s: float | None
    requests_per_s: float | None
    reused_per_s: float | None
    reusable_per_s: float | None
    plan_differences: float | None
    failed_findings: float | None
    draining: float | None
    ttft_s: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_prometheus(prometheus: Prometheus, window: str = "1m") -> list[ReplicaRow]:
    """Every replica in Prometheus.

    Raises:
        ServiceError: it does not respond, or has no replica of hybridserve.
    """
    replicas = prometheus.query("max by (namespace, model, replica) (hybridserve_state_slots)")
    if not replicas:
        raise ServiceError(
            "--prometheus",
            f"{prometheus.url} has no hybridserve_state_slots",
            "check its targets: each replica has its own metrics port (docs/how-to/monitor.md)",
        )
    queries = {
        name: f"rate({metric}{_braces(labels)}[{window}])" if counter else f"{metric}{_braces(labels)}"
        for name, (metric, labels, counter) in _NUMBERS.items()
    }
    values = {name: _by_replica(prometheus, expr) for name, expr in queries.items()}
    sums, counts = (_by_replica(prometheus, f"rate({_TTFT}_{part}[{window}])") for part in ("sum", "count"))
    rows = []
    for series in replicas:
        key = _key(series.labels)
        numbers = {name: values[name].get(key) for name in queries}
        ttft = sums[key] / counts[key] if counts.get(key) and key in sums else None
        labels = series.labels
        rows.append(ReplicaRow(labels.get("replica", "?"), labels.get("model", "?"), **numbers, ttft_s=ttft))
    return sorted(rows, key=lambda row: (row.model, row.replica))


class MetricsPorts:
    """Reads the replicas' metrics ports; rates are between two calls.

    Args:
        urls: addresses of ports; empty: those of this machine, starting with `first`.
    """

    def __init__(self, urls: Iterable[str], first: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = tuple(urls)
        self._first = first
        self._clock = clock
        self._before: dict[str, tuple[float, dict[str, float]]] = {}

    def rows(self) -> list[ReplicaRow]:
        """Every replica that responds.

        Raises:
            ServiceError: none does, or a given address does not, or is not that of a replica.
        """
        urls = self._urls or [f"http://127.0.0.1:{port}" for port in range(self._first, self._first + PORTS)]
        rows = []
        for url in urls:
            try:
                samples = read_samples(url)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                if self._urls:
                    raise ServiceError(
                        url, f"cannot be read: {one_line(error)}", "give the address of a replica's metrics port"
                    ) from None
                continue
            seen, model = _sums(samples)
            if "slots" in seen:
                rows.append(self._row(url, seen, model))
            elif self._urls:
                raise not_a_replica("--url", url, samples, _NUMBERS["slots"][0], self._first)
            # Else the autoscaler, or something else on this machine.
        if not rows:
            raise ServiceError(
                f"127.0.0.1:{self._first}",
                "no replica responds on this machine's metrics ports",
                "start one with `hybridserve serve`, or give --prometheus URL",
            )
        return rows

    def _row(self, url: str, seen: dict[str, float], model: str) -> ReplicaRow:
        now = self._clock()
        at, before = self._before.get(url, (now, {}))
        self._before[url] = now, dict(seen)
        for name, (_, _, counter) in _NUMBERS.items():
            if counter:
                change = seen.get(name, 0.0) - before.get(name, 0.0)
                seen[name] = change / (now - at) if before and now > at and change >= 0 else float("nan")
        count, total = (seen.get(part, 0.0) - before.get(part, 0.0) for part in ("ttft_count", "ttft_sum"))
        numbers = {name: _known(seen.get(name)) for name in _NUMBERS}
        return ReplicaRow(
            url.removeprefix("http://"), model, **numbers, ttft_s=total / count if before and count > 0 else None
        )


def _sums(samples: Iterable[Sample]) -> tuple[dict[str, float], str]:
    """Each number summed over its series, and the model's name."""
    seen: dict[str, float] = {}
    model = "?"
    for sample in samples:
        model = sample.labels.get("model_name", model)
        for part in ("sum", "count"):
            if sample.name == f"{_TTFT}_{part}":
                seen[f"ttft_{part}"] = seen.get(f"ttft_{part}", 0.0) + sample.value
        for name, (metric, labels, _) in _NUMBERS.items():
            if sample.name == metric and labels.items() <= sample.labels.items():
                seen[name] = seen.get(name, 0.0) + sample.value
    return seen, model


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else value


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


def _key(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels.get(name, "") for name in ("namespace", "model", "replica"))


def _by_replica(prometheus: Prometheus, expr: str) -> dict[tuple[str, ...], float]:
    found = prometheus.query(f"sum by (namespace, model, replica) ({expr})")
    return {_key(series.labels): series.points[0][1] for series in found if series.points}
