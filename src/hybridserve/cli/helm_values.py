"""Values of the Helm chart from settings: the plan, the types and the download commit pinned, the pods sized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hybridserve.catalog.licenses import model_license, pinned_commit
from hybridserve.catalog.models import model_ids
from hybridserve.cli.helm_files import bundle_files, carry_files, take_reference, take_secrets, with_local_files
from hybridserve.compliance.attribution import attribution_bundle
from hybridserve.compliance.rules.base import is_loopback
from hybridserve.deployment.compliance_view import planned_view, production_decisions
from hybridserve.errors import ConfigError
from hybridserve.planning.refusals import most_sequences
from hybridserve.planning.resolve import ResolvedPlan, plan_settings, stated_types, weights_source
from hybridserve.settings import Settings
from hybridserve.units import GIB

Mode = Literal["standalone", "rayservice"]
Scaler = Literal["keda", "hpa", "none"]

# Settings that the chart sets. Files with secrets are in `helm_files`.
CHART_SETS = (
    "server.host",
    "server.port",
    "server.ready_timeout_s",
    "server.drain_timeout_s",
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
GPU_TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def helm_values(
    settings: Settings, mode: Mode = "standalone", planned: ResolvedPlan | None = None, scaler: Scaler | None = None
) -> dict[str, Any]:
    """Values of the chart for this deployment. The engine of the result is that of `settings`.

    Mode standalone runs each replica in a pod, because Ray Serve inside one pod frees no GPU when it scales down.

    Args:
        settings: as loaded. Settings with their default are left out; what the planner chose is pinned.
        mode: mode of the chart.
        planned: the plan of these settings, where there is one already.
        scaler: what scales the pods of mode standalone. None: KEDA where the settings have a range of replicas.

    Raises:
        CatalogError, ConfigError, PlanRefused: as `plan_settings`.
        ConfigError: a setting that no pod could use: an image without digest, a folder of this machine, no commit.
    """
    planned = planned or plan_settings(settings)
    device = planned.advice.plan.deployment.accelerator
    gpu = device.platform != "cpu"
    values: dict[str, Any] = {"mode": mode}
    if settings.license.image is not None:
        values["image"] = _image(settings.license.image)
    tree = values["settings"] = _settings(settings, planned)
    values["plan"] = _plan(settings, planned)
    values |= _times(settings)
    if gpu:
        values |= _machine(settings, planned)
    pods, downloads = settings.scaling.max_replicas, _repository(settings, planned) is not None
    if mode == "standalone":
        values |= _standalone(tree, settings, scaler, gpu, downloads)
    elif scaler is not None:
        raise ConfigError("--scaler", f"is {scaler}, and Ray scales mode rayservice", "remove it, or --mode standalone")
    if downloads:
        disk = math.ceil(planned.advice.plan.weights.bytes * _devices(settings) * DISK_SHARE / GIB) + 5
        # One pod can keep a claim. Several pods need ReadWriteMany, which not every cluster has.
        kept = "persistent" if mode == "standalone" and pods == 1 else "perPod"
        values["weights"] = {"download": True, "cache": {kept: True, "size": f"{disk}Gi"}}
    if has_baked_weights(tree):
        # The check compares the model's files, which only the engine's image has.
        values["check"] = {"image": {"repository": ""}}
    if deploy := _guard(tree, settings, gpu):
        values["guard"] = {"deploy": deploy}
    for part, names in take_secrets(tree).items():
        values[part] = values.get(part, {}) | names
    if (reference := take_reference(tree)) is not None:
        values["verify"] = {"reference": reference}
    if files := carry_files(tree):
        values["files"] = files
    values["settings"] = {section: content for section, content in tree.items() if content}
    if mode == "rayservice":
        values["ray"] = {"workerGroups": [_workers(settings, device.ray_accelerator_type)]}
    # The bundle is written here, so the view must not require it. It names the commit that these values download.
    written = {
        "license": settings.license.model_copy(update={"bundle": None}),
        "model": settings.model.model_copy(update={"revision": tree["model"].get("revision")}),
    }
    here = with_local_files(settings.model_copy(update=written), settings)
    view = planned_view(replace(planned, settings=here), settings.server.profile)
    values["notice"] = {"files": {**bundle_files(settings.license.bundle), **attribution_bundle(view)}}
    return values


def has_baked_weights(tree: Mapping[str, Any]) -> bool:
    """Whether the engine's image has the weights, in a folder that the settings name.

    Args:
        tree: `settings` of the values.
    """
    source = tree.get("model", {}).get("source") or ""
    return bool(tree.get("license", {}).get("weights") == "baked" and source.startswith("/"))


def undecided(values: Mapping[str, Any], planned: ResolvedPlan, day: date) -> list[str]:
    """What profile production still requires of a person, one line each; empty where these values have all of it.

    Args:
        values: as `helm_values` returns them for this plan.
        day: of the check.
    """
    settings = Settings.model_validate(values["settings"])
    # The chart mounts the keys from a Secret.
    access = settings.access.model_copy(update={"keys_file": planned.settings.access.keys_file})
    settings = with_local_files(settings.model_copy(update={"access": access}), planned.settings)
    return production_decisions(replace(planned, settings=settings), day)


def _settings(settings: Settings, planned: ResolvedPlan) -> dict[str, Any]:
    tree = settings.model_dump(mode="json", exclude_unset=True)
    tree.setdefault("model", {}).update(_model(settings, planned))
    tree.setdefault("accelerator", {})["name"] = settings.accelerator.name
    if (repository := _repository(settings, planned)) is not None:
        tree["model"]["source"] = repository
        tree.setdefault("license", {}).setdefault("weights", "pulled")
        commit = pinned_commit(planned.model, settings.model.source)
        if settings.model.revision is None and commit is not None:
            tree["model"]["revision"] = commit
    engine = tree.setdefault("engine", {})
    engine["version"] = settings.engine.version
    for name, value in {**planned.advice.values, **stated_types(planned)}.items():
        if engine.get(name) in (None, "auto"):
            engine[name] = value
    card = planned.model.card
    if card is not None and card.serving.reasoning_parser is not None:
        engine.setdefault("reasoning_parser", card.serving.reasoning_parser)
    for path in (*CHART_SETS, *LOCAL_SETTINGS):
        section, key = path.split(".")
        tree.get(section, {}).pop(key, None)
    return tree


def _model(settings: Settings, planned: ResolvedPlan) -> dict[str, Any]:
    """The model as a pod can plan it, which has no folder of this machine: with the config.json that was read here.

    Raises:
        ConfigError: only a folder of this machine has the weights.
    """
    model, section = planned.model, settings.model
    source = section.source or ("" if model.card else str(model.folder or ""))
    if source.startswith((".", "~")) or (source and Path(source).is_dir()):
        raise ConfigError(
            "model.source" if section.source else "model.id",
            f"{source} is a folder of this machine, and no pod has it",
            "set model.source to the repository (with model.revision), or to the path in the pod, such as "
            f"/models/{Path(source).resolve().name} on the claim of weights.cache.existingClaim",
        )
    if model.folder is None or not source:
        return {"id": model.id}  # in the catalog, described already, or part of the image
    if model.card is None and model.id in model_ids():
        raise ConfigError(
            "model.id",
            f"{section.id} is a folder, and the catalog has a model of that name",
            f"set model.id to {model.id} for that model, or rename the folder",
        )
    carried: dict[str, Any] = {"id": model.id, "source": source, "config": dict(model.config)}
    plan = planned.advice.plan
    # The size of the files here. A size that was counted is counted again.
    if (stated := plan.deployment.weight_bytes) is not None:
        carried["weight_bytes"] = stated
    return carried


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
        facts["maxNumSeqs"] = most_sequences(plan.deployment, cache.num_blocks)
    return facts


def _times(settings: Settings) -> dict[str, Any]:
    """The two times from which the chart derives probes, hooks and the grace period, where they are set."""
    named = {"ready_timeout_s": "startupSeconds", "drain_timeout_s": "drainSeconds"}
    given = settings.server.model_fields_set
    return {value: math.ceil(getattr(settings.server, name)) for name, value in named.items() if name in given}


def _standalone(
    tree: dict[str, Any], settings: Settings, scaler: Scaler | None, gpu: bool, downloads: bool
) -> dict[str, Any]:
    """How pods of one replica each are counted and replaced.

    Raises:
        ConfigError: the settings ask for what no scaler of pods does.
    """
    scaling = settings.scaling
    least, most = scaling.min_replicas, scaling.max_replicas
    if scaler is None:
        scaler = "keda" if least < most else "none"
    if scaler == "none":
        for name in ("min_replicas", "max_replicas"):
            tree.get("scaling", {}).pop(name, None)
        if most == 1:
            # The only GPU, and the claim of downloaded weights, are in use until the old pod has stopped.
            return {"strategy": "Recreate"} if gpu or downloads else {}
        # No pod needs one GPU more.
        return {"replicaCount": most} | ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}} if gpu else {})
    other = "--mode rayservice, or --scaler none for max_replicas pods"
    if least == 0:
        raise ConfigError("scaling.min_replicas", "is 0, and no pod would queue the first request", f"1, or {other}")
    if scaling.policy == "queue_length":
        raise ConfigError(
            "scaling.policy", "queue_length is Ray Serve's own, and scales no pods", f"hybrid, or {other}"
        )
    if (path := settings.server.data_path) in ("haproxy", "proxy"):
        raise ConfigError(
            "server.data_path", f"is {path}, and pods that are scaled run without Ray", f"auto, or {other}"
        )
    if most == 1:
        raise ConfigError("--scaler", f"is {scaler}, and scaling.max_replicas is 1", f"a larger number, or {other}")
    # A single pod is replaced by one that is started first.
    replaced = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}} if gpu and least > 1 else {}
    return {"autoscaling": {"scaler": scaler}, **replaced}


def _workers(settings: Settings, accelerator_type: str | None) -> dict[str, Any]:
    """The group of Ray workers: one more than replicas, so that a changed setting starts a new replica first."""
    scaling = settings.scaling
    group: dict[str, Any] = {"name": "engine", "replicas": max(1, scaling.min_replicas)}
    group |= {"minReplicas": scaling.min_replicas, "maxReplicas": scaling.max_replicas + 1}
    return group | ({"acceleratorType": accelerator_type} if accelerator_type is not None else {})


def _guard(tree: dict[str, Any], settings: Settings, gpu: bool) -> dict[str, Any]:
    """The guard that the chart runs, because the settings name a model and no address; empty for any other guard.

    Raises:
        ConfigError: the guard's repository or commit is not known, or its address is the loopback interface.
    """
    guard = settings.guard
    if guard.kind in ("model", "nemo") and guard.url and is_loopback(urlsplit(guard.url).hostname or ""):
        runs = "remove it, and the chart runs the guard; or set " if guard.kind == "model" else ""
        raise ConfigError(
            "guard.url", f"{guard.url} is the pod itself, where no guard listens", f"{runs}an address that pods reach"
        )
    if guard.kind != "model" or guard.url is not None or guard.model is None:
        return {}
    known = model_license(guard.model)
    reviewed = known.repository if known and "*" not in (known.repository or "*") else None
    repository = guard.model if "/" in guard.model else reviewed
    where = "the chart runs the guard, because guard.url is empty"
    if repository is None:
        raise ConfigError("guard.model", f"{guard.model} names no repository; {where}", "OWNER/NAME, or set guard.url")
    revision = guard.revision or (known.revision if known and repository == reviewed else None)
    if revision is None:
        raise ConfigError(
            "guard.revision", f"is empty; {where}", "the commit to download (40 hex digits), or guard.url"
        )
    tree["guard"] |= {"model": repository, "revision": revision}
    tree["guard"].pop("url", None)
    # Without a guard no request is answered, so production has two.
    deploy: dict[str, Any] = {"enabled": True, "replicas": 2 if settings.server.profile == "production" else 1}
    if gpu:
        return deploy | {"tolerations": list(map(dict, GPU_TOLERATIONS))}
    without = {"nvidia.com/gpu": None}
    return deploy | {"resources": {"requests": without, "limits": without}}


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
        "tolerations": list(map(dict, GPU_TOLERATIONS)),
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
