"""What the server's prefix cache reused during a run: the difference of the replicas' counters before and after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx

from hybridserve.errors import ServiceError
from hybridserve.observability.replica_ports import not_a_replica, one_line, read_samples

FILE = "prefix-reuse.json"
_PREFIX = "hybridserve_prefix_"
_REUSABLE = f"{_PREFIX}reusable_tokens_total"
_COUNTERS = {f"{_PREFIX}{name}_tokens_total": name for name in ("reusable", "hit")}


def read_counters(urls: Iterable[str]) -> dict[str, float]:
    """Reusable and hit tokens, and lost tokens by cause, summed over the metrics ports of all replicas.

    Raises:
        ServiceError: a port does not answer with metrics, or they are not those of a replica.
    """
    found: dict[str, float] = {}
    for url in urls:
        try:
            samples = read_samples(url, timeout_s=10)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ServiceError(
                "--replica-metrics",
                f"{url} cannot be read: {one_line(error)}",
                "give the address of a replica's metrics port",
            ) from None
        if not any(sample.name == _REUSABLE for sample in samples):
            raise not_a_replica("--replica-metrics", url, samples, _REUSABLE)
        for sample in samples:
            name = _COUNTERS.get(sample.name)
            if sample.name == f"{_PREFIX}lost_tokens_total":
                name = sample.labels["cause"]
            if name is not None:
                found[name] = found.get(name, 0.0) + sample.value
    return found


def write_change(out: Path, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Write what was counted between two reads."""
    change = {name: value - before.get(name, 0.0) for name, value in after.items()}
    (out / FILE).write_text(json.dumps(change) + "\n")


def read_change(out: Path) -> dict[str, float] | None:
    """What `write_change` wrote; None where the replicas were not read."""
    file = out / FILE
    return json.loads(file.read_text()) if file.exists() else None
