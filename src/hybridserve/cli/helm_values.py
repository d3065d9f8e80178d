"""Values for the Helm chart from settings: with the plan pinned and resources sized, without what the chart sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from hybridserve.compliance.attribution import attribution_bundle
from hybridserve.deployment.resolve import planned_view
from hybridserve.errors import ConfigError
from hybridserve.planning.resolve import ResolvedPlan, plan_settings, weights_source
from hybridserve.settings import Settings
from hybridserve.units import GIB

Mode = Literal["standalone", "rayservice"]

# Paths of the settings that the chart sets itself, because only it knows their values.
CHART_SETS = (
    "server.host",
    "server.port",
    "server.ready_timeout_s",
    "server.drain_timeout_s",
    "access.keys_file",
    "license.bundle",
    "license.image",
    "telemetry.metrics_host",
    "telemetry.metrics_port",
)
# Settings that are about this machine: the plan is pinned, and Prometheus discovers pods.
LOCAL_SETTINGS = ("accelerator.calibration", "telemetry.targets_dir", "telemetry.namespace")

# Host memory for the engine, Ray and the page cache, beside the weights, which are loaded through it. 5 GiB on a CPU.
HOST_MEMORY_GIB = 16
CPUS_PER_DEVICE = 4
# During a download the hub's cache has one more copy of the largest file.
DISK_SHARE = 1.3


def helm_values(settings: Settings, mode: Mode = "standalone") -> dict[str, Any]:
    """Values of the chart for this deployment. The engine arguments of the result are those of `settings`.

    Args:
        settings: as loaded; only values that were set are copied, and what the plan chose is pinned.
        mode: how the chart runs it.

    Raises:
        CatalogError, ConfigError, PlanRefused: as `plan_settings`.
        ConfigError: license.image names no repository and digest.
    """
    planned = plan_settings(settings)
    device = planned.advice.plan.deployment.accelerator
    gpu = device.platform != "cpu"
    values: dict[str, Any] = {"mode": mode}
    if settings.license.image is not None:
        values["image"] = _image(settings.license.image)
    values["settings"] = _settings(settings, planned)
    values["plan"] = _plan(settings, planned)
    values |= _times(settings)
    if gpu:
        values |= _machine(settings, planned, mode)
    if _repository(settings, planned) is not None:
        disk = math.ceil(planned.advice.plan.weights.bytes * _devices(settings) * DISK_SHARE / GIB) + 5
        values["weights"] = {"download": True, "cache": {"persistent": True, "size": f"{disk}Gi"}}
    if settings.access.keys_file is not None:
        values["auth"] = {"existingSecret": "hybridserve-keys"}
    if mode == "rayservice":
        scaling = settings.scaling
        group: dict[str, Any] = {"name": "engine", "replicas": max(1, scaling.min_replicas)}
        group |= {"minReplicas": scaling.min_replicas, "maxReplicas": scaling.max_replicas}
        if device.ray_accelerator_type is not None:
            group["acceleratorType"] = device.ray_accelerator_type
        values["ray"] = {"token": {"existingSecret": "hybridserve-ray-token"}, "workerGroups": [group]}
    # The bundle is written here, so the view must not require it.
    unbundled = settings.model_copy(update={"license": settings.license.model_copy(update={"bundle": None})})
    view = planned_view(replace(planned, settings=unbundled), settings.server.profile)
    values["notice"] = {"files": dict(attribution_bundle(view))}
    return values


def _settings(settings: Settings, planned: ResolvedPlan) -> dict[str, Any]:
    tree = settings.model_dump(mode="json", exclude_unset=True)
    tree.setdefault("model", {})["id"] = settings.model.id
    tree.setdefault("accelerator", {})["name"] = settings.accelerator.name
    if (repository := _repository(settings, planned)) is not None:
        tree["model"]["source"] = repository
    engine = tree.setdefault("engine", {})
    engine["version"] = settings.engine.version
    for name, value in planned.advice.values.items():
        engine.setdefault(name, value)
        if engine[name] is None:
            engine[name] = value
    for path in (*CHART_SETS, *LOCAL_SETTINGS):
        section, key = path.split(".")
        tree.get(section, {}).pop(key, None)
    return {section: content for section, content in tree.items() if content}


def _repository(settings: Settings, planned: ResolvedPlan) -> str | None:
    """Repository that the pod downloads from; None where the weights are in the image or on a volume."""
    if settings.model.source is None and planned.model.folder is not None:
        return None
    source = weights_source(settings, planned.model)
    return None if source.startswith(("/", ".")) else source


def _plan(settings: Settings, planned: ResolvedPlan) -> dict[str, Any]:
    plan = planned.advice.plan
    cache = plan.low or plan.cache
    assert cache is not None  # `recommend` raises PlanRefused where nothing fits
    facts: dict[str, Any] = {
        "model": planned.model.id,
        "accelerator": settings.accelerator.name,
        "engine": settings.engine.version,
        "devices": _devices(settings),
        "numBlocks": cache.num_blocks,
        "maxModelLen": cache.longest_context,
        "exact": plan.low == plan.cache,
    }
    request = plan.deployment.cache
    if plan.deployment.arch.hybrid and request.platform == "cuda" and request.full_cudagraphs:
        facts["maxNumSeqs"] = cache.num_blocks
    return facts


def _times(settings: Settings) -> dict[str, Any]:
    """The two times, where they are set, from which the chart derives probes, hooks and the grace period."""
    named = {"ready_timeout_s": "startupSeconds", "drain_timeout_s": "drainSeconds"}
    given = settings.server.model_fields_set
    return {value: math.ceil(getattr(settings.server, name)) for name, value in named.items() if name in given}


def _machine(settings: Settings, planned: ResolvedPlan, mode: Mode) -> dict[str, Any]:
    """Resources of one pod: of all replicas in mode standalone, of one in mode rayservice."""
    devices = _devices(settings) * (settings.scaling.max_replicas if mode == "standalone" else 1)
    weights = planned.advice.plan.weights.bytes * devices
    memory = math.ceil(weights / GIB) + HOST_MEMORY_GIB
    # Ray needs one CPU for each device and one for the replica.
    cpus = CPUS_PER_DEVICE * devices
    disk = {"ephemeral-storage": "10Gi"}
    return {
        "resources": {
            "requests": {"cpu": str(cpus), "memory": f"{memory}Gi", "nvidia.com/gpu": devices, **disk},
            "limits": {"memory": f"{2 * memory}Gi", "nvidia.com/gpu": devices, **disk},
        },
        "shmSize": f"{2 * devices}Gi",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }


def _devices(settings: Settings) -> int:
    return settings.engine.tensor_parallel_size * settings.engine.pipeline_parallel_size


def _image(reference: str) -> Mapping[str, str]:
    name, at, digest = reference.partition("@")
    if not at or not name:
        raise ConfigError(
            "license.image", f"{reference!r} is not pinned by digest", "write registry/name@sha256:..., or remove it"
        )
    registry, slash, repository = name.partition("/")
    # As container runtimes parse it: the first part is a registry when it looks like a host.
    if not slash or not (set(".:") & set(registry) or registry == "localhost"):
        return {"repository": name, "digest": digest}
    return {"registry": registry, "repository": repository, "digest": digest}
