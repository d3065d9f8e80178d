"""Values of the Helm chart from settings: the plan and the download commit pinned, the pods sized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any, Literal

from hybridserve.catalog.licenses import pinned_commit
from hybridserve.compliance.attribution import attribution_bundle
from hybridserve.deployment.compliance_view import planned_view, production_decisions
from hybridserve.errors import ConfigError
from hybridserve.planning.resolve import ResolvedPlan, plan_settings, weights_source
from hybridserve.settings import Settings
from hybridserve.units import GIB

Mode = Literal["standalone", "rayservice"]

# Settings that the chart sets.
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
# Settings of this machine: the plan is pinned, and in a cluster Prometheus finds pods by labels.
LOCAL_SETTINGS = ("accelerator.calibration", "telemetry.targets_dir", "telemetry.namespace")

# Requested for each device: the engine and Ray take 5 GiB of host memory and about 2 CPUs. Weights are mapped files,
# which the kernel can evict, so they count for the limit only. A g5.xlarge (A10G) and a g6.xlarge (L4) offer 4 CPUs and
# 16 GiB.
MEMORY_GIB_PER_DEVICE = 12
CPUS_PER_DEVICE = 3
# The download cache holds a second copy of the largest file for a while.
DISK_SHARE = 1.3
# Pods' own disk beside the weights: /tmp of 4 GiB, compiled kernels of 4 GiB, log files.
DISK_GIB = 10


def helm_values(settings: Settings, mode: Mode = "standalone", planned: ResolvedPlan | None = None) -> dict[str, Any]:
    """Values of the chart for this deployment. The engine arguments of the result are those of `settings`.

    Mode standalone runs each replica in a pod, because Ray Serve inside one pod frees no GPU when it scales down.

    Args:
        settings: as loaded. Settings with their default are left out; what the planner chose is pinned.
        mode: mode of the chart.
        planned: the plan of these settings, where there is one already.

    Raises:
        CatalogError, ConfigError, PlanRefused: as `plan_settings`.
        ConfigError: license.image names no repository and digest.
    """
    planned = planned or plan_settings(settings)
    device = planned.advice.plan.deployment.accelerator
    gpu = device.platform != "cpu"
    values: dict[str, Any] = {"mode": mode}
    if settings.license.image is not None:
        values["image"] = _image(settings.license.image)
    values["settings"] = _settings(settings, planned)
    values["plan"] = _plan(settings, planned)
    values |= _times(settings)
    if gpu:
        values |= _machine(settings, planned)
    pods = settings.scaling.max_replicas
    if mode == "standalone" and gpu:
        values |= _standalone(values["settings"], pods)
    if _repository(settings, planned) is not None:
        disk = math.ceil(planned.advice.plan.weights.bytes * _devices(settings) * DISK_SHARE / GIB) + 5
        # One pod can keep a claim. Several pods need ReadWriteMany, which not every cluster has.
        kept = "persistent" if mode == "standalone" and pods == 1 else "perPod"
        values["weights"] = {"download": True, "cache": {kept: True, "size": f"{disk}Gi"}}
    if settings.access.keys_file is not None:
        values["auth"] = {"existingSecret": "hybridserve-keys"}
    if mode == "rayservice":
        scaling = settings.scaling
        group: dict[str, Any] = {"name": "engine", "replicas": max(1, scaling.min_replicas)}
        # One worker more than replicas, so that a changed setting can start a new replica before it stops an old one.
        group |= {"minReplicas": scaling.min_replicas, "maxReplicas": scaling.max_replicas + 1}
        if device.ray_accelerator_type is not None:
            group["acceleratorType"] = device.ray_accelerator_type
        values["ray"] = {"workerGroups": [group]}
    # The bundle is written here, so the view must not require it. It names the commit that these values download.
    written = {
        "license": settings.license.model_copy(update={"bundle": None}),
        "model": settings.model.model_copy(update={"revision": values["settings"]["model"].get("revision")}),
    }
    view = planned_view(replace(planned, settings=settings.model_copy(update=written)), settings.server.profile)
    values["notice"] = {"files": dict(attribution_bundle(view))}
    return values


def undecided(values: Mapping[str, Any], planned: ResolvedPlan, day: date) -> list[str]:
    """What profile production still requires of a person, one line each; empty where these values have all of it.

    Args:
        values: as `helm_values` returns them for this plan.
        day: of the check.
    """
    settings = Settings.model_validate(values["settings"])
    # The chart mounts the keys from a Secret.
    access = settings.access.model_copy(update={"keys_file": planned.settings.access.keys_file})
    settings = settings.model_copy(update={"access": access})
    return production_decisions(replace(planned, settings=settings), day)


def _settings(settings: Settings, planned: ResolvedPlan) -> dict[str, Any]:
    tree = settings.model_dump(mode="json", exclude_unset=True)
    tree.setdefault("model", {})["id"] = settings.model.id
    tree.setdefault("accelerator", {})["name"] = settings.accelerator.name
    if (repository := _repository(settings, planned)) is not None:
        tree["model"]["source"] = repository
        tree.setdefault("license", {}).setdefault("weights", "pulled")
        commit = pinned_commit(planned.model, settings.model.source)
        if settings.model.revision is None and commit is not None:
            tree["model"]["revision"] = commit
    engine = tree.setdefault("engine", {})
    engine["version"] = settings.engine.version
    for name, value in planned.advice.values.items():
        engine.setdefault(name, value)
        if engine[name] is None:
            engine[name] = value
    card = planned.model.card
    if card is not None and card.serving.reasoning_parser is not None:
        engine.setdefault("reasoning_parser", card.serving.reasoning_parser)
    for path in (*CHART_SETS, *LOCAL_SETTINGS):
        section, key = path.split(".")
        tree.get(section, {}).pop(key, None)
    return {section: content for section, content in tree.items() if content}


def _repository(settings: Settings, planned: ResolvedPlan) -> str | None:
    """Repository that the pod downloads; None where the weights are in the image or on a volume."""
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
        "poolKnown": plan.low == plan.cache,
    }
    request = plan.deployment.cache
    if plan.deployment.arch.hybrid and request.platform == "cuda" and request.full_cudagraphs:
        facts["maxNumSeqs"] = cache.num_blocks
    return facts


def _times(settings: Settings) -> dict[str, Any]:
    """The two times from which the chart derives probes, hooks and the grace period, where they are set."""
    named = {"ready_timeout_s": "startupSeconds", "drain_timeout_s": "drainSeconds"}
    given = settings.server.model_fields_set
    return {value: math.ceil(getattr(settings.server, name)) for name, value in named.items() if name in given}


def _standalone(settings: dict[str, Any], pods: int) -> dict[str, Any]:
    """How pods of one replica each are counted and replaced; scaling is removed from the settings."""
    settings.pop("scaling", None)
    if pods == 1:
        return {"strategy": "Recreate"}  # the only GPU and the claim are in use until the old pod has stopped
    return {"replicaCount": pods, "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def _machine(settings: Settings, planned: ResolvedPlan) -> dict[str, Any]:
    """Resources of the pod of one replica."""
    devices = _devices(settings)
    weights = math.ceil(planned.advice.plan.weights.bytes * devices / GIB)
    memory = MEMORY_GIB_PER_DEVICE * devices
    gpus = {"nvidia.com/gpu": devices, "ephemeral-storage": f"{DISK_GIB}Gi"}
    return {
        "resources": {
            "requests": {"cpu": str(CPUS_PER_DEVICE * devices), "memory": f"{memory}Gi", **gpus},
            "limits": {"memory": f"{2 * memory + weights}Gi", **gpus},
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
